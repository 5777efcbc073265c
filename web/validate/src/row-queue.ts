/** Sends rows of logits one block after the other, in the order in which they came. */

export interface RowQueue {
  /**
   * Copies a block `[rows × vocabSize]` and queues it. Resolves when few enough wait for another one to come: a producer
   * that can wait should. Never rejects.
   */
  push(first: number, logits: Float32Array): Promise<void>;
  /** Resolves when everything is sent, and rejects with the first failure. */
  drained(): Promise<void>;
}

export interface RowQueueOptions {
  vocabSize: number;
  /** Rows in one call of `send`, at most. */
  rowsAtOnce: number;
  /** Blocks that wait, at most, before `push` makes its caller wait. */
  mostWaiting?: number;
}

/** `send` is called for one block at a time; after it failed the rest is dropped. */
export function rowQueue(
  send: (first: number, logits: Float32Array<ArrayBuffer>) => Promise<void>,
  { vocabSize, rowsAtOnce, mostWaiting = 2 }: RowQueueOptions,
): RowQueue {
  let last: Promise<void> = Promise.resolve();
  let waiting = 0;
  let wake: (() => void)[] = [];

  async function sendInParts(first: number, block: Float32Array<ArrayBuffer>): Promise<void> {
    for (let row = 0; row * vocabSize < block.length; row += rowsAtOnce) {
      await send(first + row, block.subarray(row * vocabSize, (row + rowsAtOnce) * vocabSize));
    }
  }

  return {
    async push(first, logits) {
      const block = logits.slice();
      waiting += 1;
      last = last
        .then(() => sendInParts(first, block))
        .finally(() => {
          waiting -= 1;
          wake.forEach((resolve) => resolve());
          wake = [];
        });
      // `drained` reports it; without a handler here it would count as unhandled until then.
      last.catch(() => undefined);
      while (waiting > mostWaiting) await new Promise<void>((resolve) => wake.push(resolve));
    },
    drained: () => last,
  };
}
