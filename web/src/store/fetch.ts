/** Downloads that survive broken connections: bytes of one file, in order, from any position. */

import { HaikuqError } from '../errors.js';
import { aborted, throwIfAborted } from '../failures.js';
import type { PackageFile } from './manifest.js';
import type { StageClock } from './stages.js';

export interface Network {
  fetch: (url: string, init: RequestInit) => Promise<Response>;
  /** Wait before the first retry; doubles with each further one. */
  backoffMs: number;
  /** A connection that is silent for this long is given up and counts as broken. */
  stallMs: number;
  /** Tries in a row without a single byte before a file is given up. */
  attempts: number;
}

export function browserNetwork(): Network {
  return { fetch: (url, init) => fetch(url, init), backoffMs: 500, stallMs: 30_000, attempts: 6 };
}

const MAX_BACKOFF_MS = 15_000;

export interface FetchedBytes {
  /** Position in the file. Follows what came before, or is 0 again where the server's file changed meanwhile. */
  at: number;
  bytes: Uint8Array<ArrayBuffer>;
}

export interface FetchOptions {
  signal?: AbortSignal | undefined;
  /** How to use the HTTP cache. */
  cache?: RequestCache;
  stages?: StageClock;
}

/**
 * Yields the bytes of `file` from position `from` to its end. After a broken connection it asks for the rest with a
 * Range request; servers without ranges send everything again, of which what is known is skipped. Throws `network`
 * where the server refuses or stays away, `integrity` where its file is longer or shorter than the manifest says.
 */
export async function* fetchBytes(
  network: Network,
  url: string,
  file: PackageFile,
  from: number,
  options: FetchOptions = {},
): AsyncGenerator<FetchedBytes, void, undefined> {
  const { signal, stages } = options;
  let at = from;
  let etag: string | null = null;
  // A server whose file is too short, or whose ETag differs from request to request, must not send us in circles.
  let restarted = false;
  let failures = 0;
  while (at < file.bytes) {
    throwIfAborted(signal, `downloading ${file.name}`);
    const connection = openConnection(network.stallMs, signal);
    try {
      const request = () => network.fetch(url, requestInit(at, options.cache, connection.signal));
      const response = await connection.wait(stages ? stages.time('fetch', request) : request());
      if (response.status === 416) {
        if (restarted || at === 0) throw tooShort(file, at);
        restarted = true;
        at = 0;
        continue;
      }
      if (!response.ok) throw refused(file, response);
      const position = firstPosition(response, at);
      if (position > at) throw new Broken(`the answer begins at byte ${position} instead of ${at}`);
      const tag = strongTag(response);
      const changed = at > 0 && etag !== null && tag !== null && tag !== etag;
      etag = tag;
      if (changed && !restarted) {
        restarted = true;
        at = 0;
        if (position > 0) continue;
      }
      for await (const { bytes, begins } of read(connection, response, position, stages)) {
        if (begins + bytes.length > file.bytes) throw tooLong(file, begins + bytes.length);
        const known = Math.max(0, at - begins);
        if (known >= bytes.length) continue;
        const news = known > 0 ? bytes.subarray(known) : bytes;
        const here = at;
        at += news.length;
        failures = 0;
        yield { at: here, bytes: news };
      }
      if (at < file.bytes) throw new Broken(`the connection ended after ${at} of ${file.bytes} bytes`);
    } catch (error) {
      throwIfAborted(signal, `downloading ${file.name}`);
      if (error instanceof HaikuqError) throw error;
      failures += 1;
      if (failures >= network.attempts) throw gaveUp(file, at, failures, error);
      const wait = Math.max(backoff(network.backoffMs, failures), error instanceof Busy ? error.retryAfterMs : 0);
      await sleep(wait, signal, `downloading ${file.name}`);
    } finally {
      connection.close();
    }
  }
}

/** The whole of a small text, such as the manifest, after one answer; `limit` bounds it. Rejects with `network`. */
export async function fetchText(
  network: Network,
  url: string,
  name: string,
  options: { limit: number; timeoutMs: number; attempts: number; signal?: AbortSignal | undefined },
): Promise<string> {
  const file = { name, bytes: options.limit, sha256: '' };
  for (let failures = 1; ; failures++) {
    throwIfAborted(options.signal, `downloading ${name}`);
    const connection = openConnection(options.timeoutMs, options.signal);
    try {
      // `no-cache` asks the server whether what the HTTP cache has is still current.
      const init: RequestInit = { cache: 'no-cache', signal: connection.signal };
      const response = await connection.wait(network.fetch(url, init));
      if (!response.ok) throw refused(file, response);
      const decoder = new TextDecoder('utf-8', { fatal: true });
      let text = '';
      for await (const { bytes, begins } of read(connection, response, 0)) {
        if (begins + bytes.length > options.limit) throw tooLong(file, begins + bytes.length);
        text += decode(decoder, name, bytes);
      }
      return text + decode(decoder, name);
    } catch (error) {
      throwIfAborted(options.signal, `downloading ${name}`);
      if (error instanceof HaikuqError) throw error;
      if (failures >= options.attempts) throw gaveUp(file, 0, failures, error);
      await sleep(backoff(network.backoffMs, failures), options.signal, `downloading ${name}`);
    } finally {
      connection.close();
    }
  }
}

/** A connection that can be tried again. */
class Broken extends Error {}

/** The server asks to come back later. */
class Busy extends Broken {
  constructor(
    message: string,
    readonly status: number,
    readonly retryAfterMs: number,
  ) {
    super(message);
  }
}

interface Connection {
  signal: AbortSignal;
  /** Awaits something that this connection brings, and closes it where that takes too long. */
  wait<T>(promise: Promise<T>): Promise<T>;
  close(): void;
}

function openConnection(stallMs: number, outer: AbortSignal | undefined): Connection {
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

async function* read(connection: Connection, response: Response, position: number, stages?: StageClock) {
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

function requestInit(at: number, cache: RequestCache = 'default', signal: AbortSignal): RequestInit {
  // `Range: bytes=N-` is safelisted: unlike If-Range it costs no CORS preflight. ETags are compared by us instead.
  return { signal, cache, ...(at > 0 ? { headers: { Range: `bytes=${at}-` } } : {}) };
}

/** Where the answer begins. Content-Range is hidden from other origins; then the status is all there is to go by. */
function firstPosition(response: Response, asked: number): number {
  if (response.status !== 206) return 0;
  const range = /^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '');
  return range ? Number(range[1]) : asked;
}

/** Servers weaken the tag of a compressed answer, though the file is the same. */
function strongTag(response: Response): string | null {
  return response.headers.get('etag')?.replace(/^W\//, '') ?? null;
}

function refused(file: PackageFile, response: Response): Error {
  const { status } = response;
  const message = `${file.name}: the server answered ${status} ${response.statusText}`.trimEnd();
  if (status >= 500 || status === 408 || status === 429) {
    const seconds = Number(response.headers.get('retry-after') ?? 0);
    return new Busy(message, status, Math.min(Number.isFinite(seconds) ? seconds * 1000 : 0, MAX_BACKOFF_MS));
  }
  return new HaikuqError('network', message, { file: file.name, status });
}

function gaveUp(file: PackageFile, at: number, tries: number, cause: unknown): HaikuqError {
  const why = cause instanceof Error ? cause.message : String(cause);
  const details = cause instanceof Busy ? { file: file.name, status: cause.status } : { file: file.name };
  const where = at > 0 ? ` at byte ${at} of ${file.bytes}` : '';
  return new HaikuqError('network', `${file.name} could not be fetched${where}, ${tries} tries: ${why}`, details, { cause });
}

function tooShort(file: PackageFile, found: number): HaikuqError {
  const message = `${file.name}: the server's file has at most ${found} bytes, the manifest says ${file.bytes}`;
  return new HaikuqError('integrity', message, { file: file.name, needed: file.bytes, available: found });
}

function tooLong(file: PackageFile, found: number): HaikuqError {
  const message = `${file.name}: the server's file has at least ${found} bytes, expected at most ${file.bytes}`;
  return new HaikuqError('integrity', message, { file: file.name, needed: file.bytes, available: found });
}

function decode(decoder: TextDecoder, name: string, bytes?: Uint8Array<ArrayBuffer>): string {
  try {
    return bytes ? decoder.decode(bytes, { stream: true }) : decoder.decode();
  } catch {
    throw new HaikuqError('invalid-package', `${name} is not UTF-8 text`, { file: name });
  }
}

/** Exponential with jitter, so that tabs that lost the same server do not come back together. */
function backoff(first: number, failures: number): number {
  return Math.min(first * 2 ** (failures - 1), MAX_BACKOFF_MS) * (0.75 + Math.random() / 2);
}

async function sleep(ms: number, signal: AbortSignal | undefined, what: string): Promise<void> {
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
