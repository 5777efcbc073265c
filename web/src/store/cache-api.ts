/**
 * Blobs and records in the Cache API, for browsers without OPFS. A cache cannot append, so a blob is a run of pieces,
 * each an entry whose synthetic URL says which bytes it holds.
 */

import { asQuotaError, type BlobStore, type BlobWriter, guarded } from './blobs.js';

const CACHE = 'haikuq';
/** Never fetched: `.invalid` is reserved. */
const ORIGIN = 'https://haikuq.invalid';
/** A piece is put together in memory, so this bounds it. */
const PIECE_BYTES = 4 * 1024 * 1024;

interface Piece {
  sha256: string;
  at: number;
  bytes: number;
  request: Request;
}

/** The store, or undefined where the browser has no Cache API or keeps it closed. */
export async function openCacheApi(storage?: CacheStorage): Promise<BlobStore | undefined> {
  try {
    // In a sandboxed frame, asking for it throws.
    storage ??= globalThis.caches;
    return storage && guarded(cacheStore(await storage.open(CACHE)));
  } catch {
    return undefined;
  }
}

function cacheStore(cache: Cache): BlobStore {
  /** The pieces of a blob, or of all, by position. */
  async function pieces(sha256?: string): Promise<Piece[]> {
    const requests = await (sha256 === undefined ? cache.keys() : cache.keys(`${ORIGIN}/blobs/${sha256}`, { ignoreSearch: true }));
    return requests.flatMap(parsePiece).sort((a, b) => a.at - b.at);
  }
  async function removePieces(sha256: string): Promise<void> {
    for (const { request } of await pieces(sha256)) await cache.delete(request);
  }
  return {
    kind: 'cache-api',
    async size(sha256) {
      return contiguous(await pieces(sha256));
    },
    async read(sha256, start, end) {
      const wanted = (await pieces(sha256)).filter((piece) => piece.at < end && piece.at + piece.bytes > start);
      const parts: BlobPart[] = [];
      for (const { request, at, bytes } of wanted) {
        const response = await cache.match(request);
        if (!response) break;
        const blob = await response.blob();
        parts.push(blob.slice(Math.max(0, start - at), Math.min(bytes, end - at)));
      }
      return new Uint8Array(await new Blob(parts).arrayBuffer());
    },
    readWhole(sha256, memory) {
      return this.read(sha256, 0, memory.length);
    },
    async append(sha256) {
      return appendPieces(cache, sha256, contiguous(await pieces(sha256)), () => removePieces(sha256));
    },
    remove: removePieces,
    async list() {
      const all = await pieces();
      const blobs = [...new Set(all.map((piece) => piece.sha256))];
      return blobs.map((sha256) => ({ sha256, bytes: contiguous(all.filter((piece) => piece.sha256 === sha256)) }));
    },
    async readRecord(key) {
      return (await cache.match(`${ORIGIN}/packages/${key}`))?.text();
    },
    async writeRecord(key, text) {
      await put(cache, `${ORIGIN}/packages/${key}`, new Blob([text]));
    },
    async removeRecord(key) {
      await cache.delete(`${ORIGIN}/packages/${key}`);
    },
    async listRecords() {
      const paths = (await cache.keys()).map((request) => new URL(request.url).pathname);
      return paths.flatMap((path) => /^\/packages\/([0-9a-f]{64})$/.exec(path)?.[1] ?? []);
    },
  };
}

function appendPieces(cache: Cache, sha256: string, size: number, removeAll: () => Promise<void>): BlobWriter {
  let at = size;
  let parts: Uint8Array<ArrayBuffer>[] = [];
  let pending = 0;

  async function store(): Promise<void> {
    if (pending === 0) return;
    const blob = new Blob(parts);
    const url = `${ORIGIN}/blobs/${sha256}?at=${at}&bytes=${pending}`;
    // Whether it works or not, the parts are not to be put twice.
    const end = at + pending;
    parts = [];
    pending = 0;
    await put(cache, url, blob);
    at = end;
  }
  return {
    async write(bytes) {
      parts.push(bytes.slice());
      pending += bytes.length;
      if (pending >= PIECE_BYTES) await store();
    },
    async restart() {
      parts = [];
      pending = 0;
      at = 0;
      await removeAll();
    },
    close: store,
  };
}

async function put(cache: Cache, url: string, body: Blob): Promise<void> {
  try {
    await cache.put(url, new Response(body));
  } catch (error) {
    throw asQuotaError(error);
  }
}

function parsePiece(request: Request): Piece[] {
  const url = new URL(request.url);
  const sha256 = /^\/blobs\/([0-9a-f]{64})$/.exec(url.pathname)?.[1];
  if (sha256 === undefined) return [];
  return [{ sha256, at: Number(url.searchParams.get('at')), bytes: Number(url.searchParams.get('bytes')), request }];
}

/** Bytes from the start without a gap; those beyond one are as good as absent. */
function contiguous(run: Piece[]): number {
  let end = 0;
  for (const piece of run) if (piece.at === end) end += piece.bytes;
  return end;
}
