/** A file server behind `fetch`: ranges, ETags, and whatever can go wrong with them. */

import type { Network } from '../store/fetch.js';

export interface FakeServer {
  network: Network;
  files: Map<string, Uint8Array>;
  /** By file name; absent for none. */
  etags: Map<string, string>;
  ignoreRanges: boolean;
  hideContentRange: boolean;
  /** No answer at all, as without a network. */
  down: boolean;
  /** For the next requests of a file, one each: break the connection after so many bytes, or answer with a status. */
  trouble: Map<string, ({ breakAfter: number } | { stallAfter: number } | { status: number; retryAfter?: string })[]>;
  /** Answers in the server's place, where it gives one; `times` counts the file's requests before. */
  answers: Map<string, (range: string | null, times: number) => Response | undefined>;
  requests: { file: string; range: string | null; sha256: string | null; cache: string | undefined }[];
  /** Bodies that are being read. */
  inFlight: number;
  maxInFlight: number;
  /** Bytes handed out. */
  sent: number;
}

export const CHUNK = 1000;

export function fakeServer(files: Record<string, Uint8Array> = {}): FakeServer {
  const server: FakeServer = {
    network: { fetch: (url, init) => answer(server, url, init), backoffMs: 1, stallMs: 60_000, attempts: 4 },
    files: new Map(Object.entries(files)),
    etags: new Map(),
    ignoreRanges: false,
    hideContentRange: false,
    down: false,
    trouble: new Map(),
    answers: new Map(),
    requests: [],
    inFlight: 0,
    maxInFlight: 0,
    sent: 0,
  };
  return server;
}

async function answer(server: FakeServer, address: string, { headers, signal, cache }: RequestInit): Promise<Response> {
  const url = new URL(address);
  const file = url.pathname.split('/').at(-1) as string;
  const range = new Headers(headers).get('range');
  const times = server.requests.filter((request) => request.file === file).length;
  server.requests.push({ file, range, sha256: url.searchParams.get('sha256'), cache });
  await Promise.resolve();
  signal?.throwIfAborted();
  if (server.down) throw new TypeError('Failed to fetch');
  const own = server.answers.get(file)?.(range, times);
  if (own) return own;
  const trouble = server.trouble.get(file)?.shift();
  if (trouble && 'status' in trouble) {
    return new Response(null, { status: trouble.status, headers: trouble.retryAfter ? { 'retry-after': trouble.retryAfter } : {} });
  }
  const bytes = server.files.get(file);
  if (!bytes) return new Response(null, { status: 404, statusText: 'Not Found' });
  const etag: Record<string, string> = server.etags.has(file) ? { etag: server.etags.get(file) as string } : {};
  const from = range && !server.ignoreRanges ? Number(/^bytes=(\d+)-$/.exec(range)?.[1]) : 0;
  if (range && !server.ignoreRanges) {
    if (from >= bytes.length) return new Response(null, { status: 416 });
    const contentRange: Record<string, string> = server.hideContentRange
      ? {}
      : { 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` };
    return new Response(body(server, bytes.subarray(from), trouble, signal), { status: 206, headers: { ...etag, ...contentRange } });
  }
  return new Response(body(server, bytes, trouble, signal), { status: 200, headers: etag });
}

function body(
  server: FakeServer,
  bytes: Uint8Array,
  trouble: { breakAfter: number } | { stallAfter: number } | undefined,
  signal: AbortSignal | null | undefined,
): ReadableStream<Uint8Array> {
  let at = 0;
  let open = true;
  server.inFlight += 1;
  server.maxInFlight = Math.max(server.maxInFlight, server.inFlight);
  const finished = () => {
    if (open) server.inFlight -= 1;
    open = false;
  };
  const ends = trouble && ('breakAfter' in trouble ? trouble.breakAfter : trouble.stallAfter);
  return new ReadableStream<Uint8Array>(
    {
      start(controller) {
        signal?.addEventListener('abort', () => {
          if (open) controller.error(new DOMException('aborted', 'AbortError'));
          finished();
        });
      },
      async pull(controller) {
        // A turn of the event loop between pieces, as on a network.
        await new Promise((resolve) => setTimeout(resolve, 0));
        if (!open) return;
        if (ends !== undefined && at >= ends) {
          if ('stallAfter' in (trouble as object)) return new Promise(() => undefined);
          finished();
          return controller.error(new TypeError('network error'));
        }
        if (at >= bytes.length) {
          finished();
          return controller.close();
        }
        const piece = bytes.slice(at, Math.min(at + CHUNK, ends ?? Infinity));
        at += piece.length;
        server.sent += piece.length;
        controller.enqueue(piece);
      },
      cancel: finished,
    },
    { highWaterMark: 0 },
  );
}
