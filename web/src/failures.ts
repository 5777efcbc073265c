/** Turns whatever was thrown (by browsers, WebAssembly, the engine) into a `HaikuqError`. */

import { type ErrorCode, type ErrorDetails, HaikuqError } from './errors.js';

const CODES: Record<ErrorCode, true> = {
  'webgpu-unavailable': true,
  'unsupported-device': true,
  network: true,
  integrity: true,
  quota: true,
  'out-of-memory': true,
  'context-overflow': true,
  aborted: true,
  'device-lost': true,
  'invalid-package': true,
  'invalid-argument': true,
  cloud: true,
  internal: true,
};

/** Whether `error` is a WebAssembly trap: after one, the module's memory is in an unknown state. */
export function isTrap(error: unknown): error is WebAssembly.RuntimeError {
  return error instanceof WebAssembly.RuntimeError;
}

/** Errors of this package stay as they are; the cause of any other is kept. */
export function toHaikuqError(error: unknown): HaikuqError {
  if (error instanceof HaikuqError) return error;
  const { name, message } = asError(error);
  const options = { cause: error };
  // The engine's errors are plain `Error`s with these two members.
  const { code, details } = error instanceof Error ? (error as { code?: unknown; details?: unknown }) : {};
  if (typeof code === 'string' && code in CODES) {
    return new HaikuqError(code as ErrorCode, message, (details ?? {}) as ErrorDetails, options);
  }
  if (name === 'AbortError') return new HaikuqError('aborted', message, {}, options);
  if (name === 'QuotaExceededError') return new HaikuqError('quota', message, {}, options);
  if (isTrap(error) || error instanceof RangeError) {
    // Browsers word a failed `memory.grow` or array allocation each in their own way; Rust's handler shows in the stack.
    const words = `${message}\n${(error as Error).stack ?? ''}`;
    const memory = /out of memory|could not allocate|allocation (failed|size)|memory\.grow|rust_oom|alloc_error/i.test(words);
    if (memory) return new HaikuqError('out-of-memory', `WebAssembly ran out of memory: ${message}`, {}, options);
    if (isTrap(error)) return new HaikuqError('internal', `WebAssembly stopped: ${message}`, {}, options);
  }
  return new HaikuqError('internal', name === 'Error' ? message : `${name}: ${message}`, {}, options);
}

/** The error with what was written before it in `details.partialText`. */
export function withPartialText(thrown: unknown, text: string): HaikuqError {
  const error = toHaikuqError(thrown);
  if (text === '' || error.details.partialText === text) return error;
  return new HaikuqError(error.code, error.message, { ...error.details, partialText: text }, { cause: error });
}

/** The error of a caller's `AbortSignal`. */
export function aborted(what: string): HaikuqError {
  return new HaikuqError('aborted', `${what} was aborted`);
}

/** Throws `aborted` once the signal is. */
export function throwIfAborted(signal: AbortSignal | undefined, what: string): void {
  if (signal?.aborted) throw aborted(what);
}

function asError(error: unknown): { name: string; message: string } {
  return error instanceof Error ? error : { name: 'Error', message: String(error) };
}
