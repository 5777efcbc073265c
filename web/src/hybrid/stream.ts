/** Text streams made from a function that writes. */

import { HaikuqError } from '../errors.js';
import { withPartialText } from '../failures.js';
import type { FinishReason, GenerationResult, TextStream } from '../types.js';

/**
 * Writes a text by calling `emit`. When `signal` aborts it must end soon and return what there is with
 * `finish: 'cancelled'`; everything that it throws is a failure.
 */
export type Run = (emit: (text: string) => void, signal: AbortSignal) => Promise<GenerationResult>;

/**
 * A `TextStream` of what `run` writes. The writing starts at once and does not wait for the reader: texts are small, and
 * `result` must settle whether or not anybody iterates. Leaving the iteration early (`break`) aborts.
 */
export function makeTextStream(run: Run, callerSignal?: AbortSignal): TextStream {
  const controller = new AbortController();
  const { signal } = controller;
  const unread: string[] = [];
  let text = '';
  let ended = false;
  let failure: HaikuqError | undefined;
  let wake = () => {};
  let iterated = false;

  const onCallerAbort = () => controller.abort(callerSignal?.reason);
  if (callerSignal?.aborted) onCallerAbort();
  callerSignal?.addEventListener('abort', onCallerAbort, { once: true });

  function emit(piece: string) {
    text += piece;
    unread.push(piece);
    wake();
  }

  async function write(): Promise<GenerationResult> {
    try {
      const result = await run(emit, signal);
      if (result.finish === 'cancelled' && callerSignal?.aborted) failure = abortedError(callerSignal);
      return result;
    } catch (error) {
      failure = withPartialText(error, text);
      throw failure;
    } finally {
      callerSignal?.removeEventListener('abort', onCallerAbort);
      ended = true;
      wake();
    }
  }

  const result = write();
  // Who only iterates learns of the failure there; it must not be reported as unhandled as well.
  result.catch(() => {});

  async function* iterate(): AsyncGenerator<string, void> {
    if (iterated) throw new HaikuqError('invalid-argument', 'a text stream can be iterated only once');
    iterated = true;
    try {
      for (;;) {
        const piece = unread.shift();
        if (piece !== undefined) yield piece;
        else if (ended) break;
        else await new Promise<void>((resolve) => (wake = resolve));
      }
      if (failure) throw failure;
    } finally {
      if (!ended) controller.abort();
    }
  }

  return {
    [Symbol.asyncIterator]: iterate,
    result,
    async text() {
      const { text } = await result;
      // An abort by signal is an error to whoever waits for the whole, as in the iteration.
      if (failure) throw failure;
      return text;
    },
    abort: () => controller.abort(),
  };
}

/** Measures an answer as it is written. */
export function stopwatch() {
  const start = performance.now();
  let first: number | undefined;
  let last = start;
  return {
    /** Some text came. */
    mark() {
      last = performance.now();
      first ??= last;
    },
    timings(completionTokens: number) {
      const decodeMs = first === undefined ? 0 : last - first;
      return {
        timeToFirstTokenMs: (first ?? performance.now()) - start,
        decodeMs,
        tokensPerSecond: decodeMs > 0 && completionTokens > 1 ? ((completionTokens - 1) * 1000) / decodeMs : 0,
      };
    },
  };
}

/** A result of which only the essentials are known. */
export function plainResult(
  answeredBy: 'local' | 'cloud',
  text: string,
  finish: FinishReason,
  timings: GenerationResult['timings'],
  usage: GenerationResult['usage'] = { promptTokens: 0, reusedTokens: 0, completionTokens: 0 },
): GenerationResult {
  return { text, ids: new Uint32Array(), finish, usage, timings, recoveries: 0, answeredBy };
}

/** Settles like `promise`, or rejects with the signal's reason as soon as it aborts. */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  if (signal.aborted) {
    promise.catch(() => {});
    return Promise.reject(signal.reason);
  }
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}

function abortedError(signal: AbortSignal): HaikuqError {
  return new HaikuqError('aborted', 'aborted by its signal', {}, { cause: signal.reason });
}
