/** Downloads that survive broken connections: bytes of one file, in order, from any position. */

import { HaikuqError } from '../errors.js';
import { throwIfAborted } from '../failures.js';
import { checkAnswer, pageError, partBegins, strongTag } from './answer.js';
import { backoff, Broken, Busy, openConnection, read, sleep } from './connection.js';
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
  /**
   * Whether there is an answer at a URL that could not be fetched: undefined where there is none, `withheld` where the browser
   * keeps it from the page.
   */
  probe?: (url: string, signal: AbortSignal) => Promise<'there' | 'withheld' | undefined>;
}

export function browserNetwork(): Network {
  return { fetch: (url, init) => fetch(url, init), backoffMs: 500, stallMs: 30_000, attempts: 6, probe };
}

/** A request that may not see its answer is let through. */
const probe: NonNullable<Network['probe']> = async (url, signal) => {
  try {
    const { type } = await fetch(url, { method: 'HEAD', mode: 'no-cors', cache: 'no-store', signal });
    return type === 'opaque' ? 'withheld' : 'there';
  } catch {
    return undefined;
  }
};

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
  /** Never ask for a part: one that was asked for before turned out wrong. */
  whole?: boolean;
}

/** Parts in a row that did not come although the host answers, until the whole is asked for. */
const MISSED_PARTS = 2;

/**
 * Yields the bytes of `file` from position `from` to its end. After a broken connection it asks for the rest with a
 * Range request; servers without ranges send everything again, of which what is known is skipped. Where a part is not what
 * was asked for (a range of a compressed form, say), all that was known is dropped and the whole is asked for, and no part
 * any more. Throws `network` where the server refuses, sends a page or stays away, `integrity` where its file is longer or
 * shorter than the manifest says.
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
  /** Whether the rest may be asked for. */
  let parts = !options.whole;
  let missedParts = 0;
  /** Where the whole ended without a break, the last time. */
  let ended: number | undefined;
  let failures = 0;

  function startAgain(): void {
    parts = false;
    at = 0;
  }
  while (at < file.bytes) {
    throwIfAborted(signal, `downloading ${file.name}`);
    const connection = openConnection(network.stallMs, signal);
    const asked = parts ? at : 0;
    const before = at;
    let answered = false;
    try {
      const request = () => network.fetch(url, requestInit(asked, options.cache, connection.signal));
      const response = await connection.wait(stages ? stages.time('fetch', request) : request());
      answered = true;
      if (response.status === 416 && asked > 0) {
        startAgain();
        continue;
      }
      checkAnswer(file, url, response, file.bytes - (response.status === 206 ? asked : 0));
      const begins = response.status === 206 ? partBegins(response, asked, file) : 0;
      const tag = strongTag(response);
      const changed = at > 0 && etag !== null && tag !== null && tag !== etag;
      etag = tag;
      if (begins === undefined) {
        if (asked === 0) throw otherPart(file, response);
        startAgain();
        continue;
      }
      if (changed) {
        // A server whose tag differs from request to request must not send us in circles: this happens once.
        if (parts) at = 0;
        parts = false;
        if (begins > at) continue;
      }
      let tooMuch = false;
      for await (const { bytes, begins: position } of read(connection, response, begins, stages)) {
        const end = position + bytes.length;
        if (end > file.bytes) {
          if (asked === 0) throw tooLong(file, end);
          tooMuch = true;
          break;
        }
        const known = Math.max(0, at - position);
        if (known >= bytes.length) continue;
        const news = known > 0 ? bytes.subarray(known) : bytes;
        const here = at;
        at += news.length;
        failures = missedParts = 0;
        yield { at: here, bytes: news };
      }
      if (tooMuch) {
        startAgain();
        continue;
      }
      if (at === file.bytes) return;
      if (begins === 0) {
        if (ended === at) throw tooShort(file, at);
        ended = at;
      }
      throw new Broken(`the connection ended after ${at} of ${file.bytes} bytes`);
    } catch (error) {
      throwIfAborted(signal, `downloading ${file.name}`);
      if (error instanceof HaikuqError) throw error;
      failures += 1;
      const found = answered || (asked === 0 && failures > 1) ? undefined : await network.probe?.(url, connection.signal);
      if (found === 'withheld' && asked === 0) throw withheld(url, file, error);
      // A part that cannot be decoded comes to nothing, however often it is asked for.
      if (asked > 0 && at === before && (answered || found) && ++missedParts === MISSED_PARTS) parts = false;
      if (failures >= network.attempts) throw gaveUp(url, file, at, failures, error);
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
    let answered = false;
    const connection = openConnection(options.timeoutMs, options.signal);
    try {
      // `no-cache` asks the server whether what the HTTP cache has is still current.
      const init: RequestInit = { cache: 'no-cache', signal: connection.signal };
      const response = await connection.wait(network.fetch(url, init));
      answered = true;
      checkAnswer(file, url, response);
      const decoder = new TextDecoder('utf-8', { fatal: true });
      let text = '';
      for await (const { bytes, begins } of read(connection, response, 0)) {
        if (begins + bytes.length > options.limit) throw tooLong(file, begins + bytes.length);
        text += decode(decoder, name, bytes);
      }
      text += decode(decoder, name);
      // Not every host says that its page is one.
      if (/^\s*</.test(text)) throw pageError(name, url, response, 'invalid-package');
      return text;
    } catch (error) {
      throwIfAborted(options.signal, `downloading ${name}`);
      if (error instanceof HaikuqError) throw error;
      const found = answered || failures > 1 ? undefined : await network.probe?.(url, connection.signal);
      if (found === 'withheld') throw withheld(url, file, error);
      if (failures >= options.attempts) throw gaveUp(url, file, 0, failures, error);
      await sleep(backoff(network.backoffMs, failures), options.signal, `downloading ${name}`);
    } finally {
      connection.close();
    }
  }
}

/** The browser does not let the page see the answer; another try would not be seen either. */
function withheld(url: string, file: PackageFile, cause: unknown): HaikuqError {
  const host = isElsewhere(url) ? new URL(url).origin : 'the host that it redirects to';
  const message =
    `${file.name}: ${host} answers, but lets no page of ${globalThis.origin} read it (CORS): ` +
    'it has to send Access-Control-Allow-Origin, also for the headers that load was given';
  return new HaikuqError('network', message, { file: file.name }, { cause });
}

function requestInit(at: number, cache: RequestCache = 'default', signal: AbortSignal): RequestInit {
  // `Range: bytes=N-` is safelisted: unlike If-Range it costs no CORS preflight. ETags are compared by us instead.
  return { signal, cache, ...(at > 0 ? { headers: { Range: `bytes=${at}-` } } : {}) };
}

function otherPart({ name, bytes }: PackageFile, { headers }: Response): HaikuqError {
  const range = headers.get('content-range') ?? 'without Content-Range';
  return new HaikuqError('network', `${name}: the server sent a part (206, ${range}), asked for were all ${bytes} bytes`, {
    file: name,
    status: 206,
  });
}

function gaveUp(url: string, file: PackageFile, at: number, tries: number, cause: unknown): HaikuqError {
  const why = cause instanceof Error ? cause.message : String(cause);
  const details = cause instanceof Busy ? { file: file.name, status: cause.status } : { file: file.name };
  const where = at > 0 ? ` at byte ${at} of ${file.bytes}` : '';
  // A browser does not say whether it was the network or itself.
  const hint = cause instanceof TypeError && isElsewhere(url) ? '; does that host send Access-Control-Allow-Origin (CORS)?' : '';
  return new HaikuqError('network', `${file.name} could not be fetched${where}, ${tries} tries: ${why}${hint}`, details, { cause });
}

function isElsewhere(url: string): boolean {
  return globalThis.location !== undefined && new URL(url).origin !== globalThis.origin;
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
