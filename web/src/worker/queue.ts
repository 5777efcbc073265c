/** First come, first served: an engine writes for one call at a time. */

export interface Queue {
  /** Runs `task` in its turn. Resolves with undefined where the signal aborts while it waits. */
  run<T>(signal: AbortSignal | undefined, task: () => Promise<T>): Promise<T | undefined>;
}

export function createQueue(): Queue {
  let tail: Promise<void> = Promise.resolve();
  return {
    async run(signal, task) {
      const turn = tail;
      let done!: () => void;
      const over = new Promise<void>((resolve) => (done = resolve));
      // Those behind wait for those before too when this one leaves the queue.
      tail = turn.then(() => over);
      try {
        await untilAborted(turn, signal);
        return signal?.aborted ? undefined : await task();
      } finally {
        done();
      }
    },
  };
}

async function untilAborted(turn: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (!signal) return turn;
  let stop: (() => void) | undefined;
  const stopped = new Promise<void>((resolve) => {
    stop = resolve;
    if (signal.aborted) resolve();
    signal.addEventListener('abort', stop, { once: true });
  });
  await Promise.race([turn, stopped]);
  if (stop) signal.removeEventListener('abort', stop);
}
