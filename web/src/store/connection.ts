/** One connection of a download: what ends it, what it brings, and how long to wait for the next one. */

import { aborted } from '../failures.js';
import type { StageClock } from './stages.js';

const MAX_BACKOFF_MS = 15_000;

/** A connection that can be tried again. */
export class Broken extends Error {}

/** The server asks to come back later. */
export class Busy extends Broken {
  constructor(
    message: string,
    readonly status: number,
    readonly retryAfterMs: number,
  ) {
    super(message);
  }

  /** As the server asks for it, in seconds. */
  static until(message: string, { status, headers }: Response): Busy {
    const seconds = Number(headers.get('retry-after') ?? 0);
    return new Busy(message, status, Math.min(Number.isFinite(seconds) ? seconds * 1000 : 0, MAX_BACKOFF_MS));
  }
}

export interface Connection {
  signal: AbortSignal;
  /** Awaits something that this connection brings, and closes it where that takes too long. */
  wait<T>(promise: Promise<T>): Promise<T>;
  close(): void;
}

export function openConnection(stallMs: number, outer: AbortSignal | undefined): Connection {
  const controller = new AbortController();
  const close = () => controller.abort();
  outer?.addEventListener('abort', close, { once: true });
  return {
    signal: controller.signal,
    async wait(promise) {
      let stalled = false;
      const timer = setTimeout(() => {
        stalled = true;
        close();
      }, stallMs);
      try {
        return await promise;
      } catch (error) {
        throw stalled ? new Broken(`nothing arrived for ${stallMs} ms`) : error;
      } finally {
        clearTimeout(timer);
      }
    },
    close() {
      outer?.removeEventListener('abort', close);
      close();
    },
  };
}

export async function* read(connection: Connection, response: Response, position: number, stages?: StageClock) {
  // Chunks as they come. Reading into memory of our own is faster, but loses what has arrived where a connection breaks.
  const reader = response.body?.getReader();
  if (!reader) return;
  try {
    for (let begins = position; ; ) {
      const { done, value } = await connection.wait(stages ? stages.time('fetch', () => reader.read()) : reader.read());
      if (done || !value) return;
      stages?.add('fetch', value.length);
      yield { begins, bytes: value };
      begins += value.length;
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

/** Exponential with jitter, so that tabs that lost the same server do not come back together. */
export function backoff(first: number, failures: number): number {
  return Math.min(first * 2 ** (failures - 1), MAX_BACKOFF_MS) * (0.75 + Math.random() / 2);
}

export async function sleep(ms: number, signal: AbortSignal | undefined, what: string): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(aborted(what));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', abort);
      resolve();
    }, ms);
    signal?.addEventListener('abort', abort, { once: true });
  });
}
