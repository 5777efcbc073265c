/** Streams: the written text can be iterated as it comes, and awaited as a whole. */

import { HaikuqError } from './errors.js';
import { aborted } from './failures.js';

export interface ResultStream<Item, Result> extends AsyncIterable<Item> {
  readonly result: Promise<Result>;
  abort(): void;
}

export interface StreamOptions<Item, Result> {
  signal?: AbortSignal | undefined;
  /** Begins to write, at once. */
  start: (push: (item: Item) => void) => Promise<Result>;
  /** Asks `start` to come to an end; it then resolves with what there is. */
  cancel: () => void;
  /** The result where the signal was aborted before anything began. */
  nothing: () => Result;
}

/**
 * `result` settles whether the stream is iterated or not, and is never an unhandled rejection. A signal makes the
 * iteration throw `aborted`; `abort()` and leaving a loop end it. Either way `result` tells how far it came.
 */
export function createStream<Item, Result>(options: StreamOptions<Item, Result>): ResultStream<Item, Result> {
  const { signal, start, cancel, nothing } = options;
  const items: Item[] = [];
  let stopped: 'by signal' | 'by call' | undefined = signal?.aborted ? 'by signal' : undefined;
  let outcome: { error?: unknown } | undefined;
  let wake = () => {};

  function push(item: Item): void {
    if (stopped) return;
    items.push(item);
    wake();
  }
  function stop(how: 'by signal' | 'by call'): void {
    if (stopped || outcome) return;
    stopped = how;
    items.length = 0;
    cancel();
    wake();
  }
  const onAbort = () => stop('by signal');

  function end(how: { error?: unknown }): void {
    outcome = how;
    signal?.removeEventListener('abort', onAbort);
    wake();
  }
  async function* iterate(): AsyncGenerator<Item, void, undefined> {
    try {
      for (;;) {
        if (stopped === 'by signal') throw aborted('writing');
        if (stopped) return;
        const item = items.shift();
        if (item !== undefined) {
          yield item;
        } else if (outcome) {
          if ('error' in outcome) throw outcome.error;
          return;
        } else {
          await new Promise<void>((resolve) => (wake = resolve));
        }
      }
    } finally {
      stop('by call');
    }
  }

  signal?.addEventListener('abort', onAbort, { once: true });
  const result = stopped ? Promise.resolve().then(nothing) : start(push);
  // The error is thrown to whoever iterates or awaits; if nobody does, nobody wanted it.
  result.then(
    () => end({}),
    (error: unknown) => end({ error }),
  );
  let iterator: AsyncGenerator<Item, void, undefined> | undefined;
  return {
    result,
    abort: () => stop('by call'),
    [Symbol.asyncIterator]() {
      if (iterator) throw new HaikuqError('invalid-argument', 'a stream can be iterated only once');
      return (iterator = iterate());
    },
  };
}
