/** What a server's answer is, judged by its status and headers: the file, a part of it, or something else, which is named. */

import { type ErrorCode, HaikuqError } from '../errors.js';
import { Busy } from './connection.js';
import type { PackageFile } from './manifest.js';

/**
 * Throws where the answer is not the file's: the status, or a page in its place. Answers that are worth another try are
 * `Busy`, all others a `HaikuqError`. Hosts with a page for every address, portals and logins answer with status 200.
 * `length` is what the file or its rest has; a file that is called a page and has the right length is the file.
 */
export function checkAnswer({ name }: PackageFile, url: string, response: Response, length = -1): void {
  const { status, statusText } = response;
  // Of schemes other than http, some have no status.
  if (!response.ok && !(status === 0 && !url.startsWith('http'))) {
    const message = `${name}: the server answered ${status} ${statusText}`.trimEnd() + redirect(response);
    if (status >= 500 || status === 408 || status === 429) throw Busy.until(message, response);
    const query = (status === 400 || status === 403) && url.includes('sha256=');
    const wayOut = query ? '; a host that refuses the query ?sha256= wants sha256Query: false' : '';
    throw new HaikuqError('network', message + wayOut, { file: name, status });
  }
  if (isPage(response) && contentLength(response) !== length) throw pageError(name, url, response);
}

/** A page in place of `name`. */
export function pageError(name: string, url: string, response: Response, code: ErrorCode = 'network'): HaikuqError {
  const where = withoutQuery(url) + redirect(response);
  const message = `${name}: the server sent a page of HTML, not the file: ${where}. Is the package there, or is a login needed?`;
  return new HaikuqError(code, message, { file: name, status: response.status });
}

function isPage({ headers }: Response): boolean {
  return /^\s*(text\/html|application\/xhtml)/i.test(headers.get('content-type') ?? '');
}

/**
 * Where a part of a file begins that was asked for from byte `asked` on, or undefined where it is not that part:
 * another one, one of another file, or one of a compressed form of it. Content-Range is hidden from other origins; then the
 * status is all there is to go by.
 */
export function partBegins({ headers }: Response, asked: number, { bytes }: PackageFile): number | undefined {
  if (/gzip|deflate|br|zstd/.test(headers.get('content-encoding') ?? '')) return undefined;
  const range = headers.get('content-range');
  if (range === null) return asked;
  const [begin, end, total] = (/^bytes (\d+)-(\d+)\/(\d+|\*)/.exec(range) ?? []).slice(1).map(Number);
  const whole = end === bytes - 1 && (Number.isNaN(total) || total === bytes);
  return whole && begin !== undefined && begin <= asked ? begin : undefined;
}

/** Servers weaken the tag of a compressed answer, though the file is the same. */
export function strongTag({ headers }: Response): string | null {
  return headers.get('etag')?.replace(/^W\//, '') ?? null;
}

function redirect({ redirected, url }: Response): string {
  return redirected && url ? `, after a redirect to ${withoutQuery(url)}` : '';
}

function contentLength({ headers }: Response): number {
  return Number(headers.get('content-length') ?? NaN);
}

/** Queries carry signatures, which do not belong in messages. */
function withoutQuery(url: string): string {
  return url.replace(/[?#].*/, '');
}
