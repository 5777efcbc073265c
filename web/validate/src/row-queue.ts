/**
 * Sends rows of logits one block after the other, in the order in which they came. Scoring hands its rows out without
 * waiting for anybody, so rows that are not sent yet wait here: at most the logits of one window, whose length times the
 * vocabulary times 4 bytes is the bound, as the next window begins when the queue is drained.
 */

export interface RowQueue {
  /** Copies a block `[rows × vocabSize]` and queues it. */
  push(first: number, logits: Float32Array): void;
  /** Resolves when everything is sent, and rejects with the first failure. */
  drained(): Promise<void>;
}

export interface RowQueueOptions {
  vocabSize: number;
  /** Rows in one call of `send`, at most. */
  rowsAtOnce: number;
}

/** `send` is called for one block at a time; after it failed the rest is dropped. */
export function rowQueue(
  send: (first: number, logits: Float32Array<ArrayBuffer>) => Promise<void>,
  { vocabSize, rowsAtOnce }: RowQueueOptions,
): RowQueue {
  let last: Promise<void> = Promise.resolve();

  async function sendInParts(first: number, block: Float32Array<ArrayBuffer>): Promise<void> {
    for (let row = 0; row * vocabSize < block.length; row += rowsAtOnce) {
      await send(first + row, block.subarray(row * vocabSize, (row + rowsAtOnce) * vocabSize));
    }
  }

  return {
    push(first, logits) {
      const block = logits.slice();
      last = last.then(() => sendInParts(first, block));
      // `drained` reports it; without a handler here it would count as unhandled until then.
      last.catch(() => undefined);
    },
    drained: () => last,
  };
}
