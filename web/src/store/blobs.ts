/** What keeps files between visits: blobs named by their SHA-256, and small text records. */

import { HaikuqError } from '../errors.js';

export interface BlobStore {
  readonly kind: 'opfs' | 'cache-api';
  /** Bytes of a blob that are stored, 0 for none. It is complete when these are all that it should have. */
  size(sha256: string): Promise<number>;
  /** Bytes `[start, end)`; fewer where fewer are stored, or another tab is replacing the blob. */
  read(sha256: string, start: number, end: number): Promise<Uint8Array<ArrayBuffer>>;
  /** The first bytes of a blob, as many as `memory` has or fewer as above: in `memory`, or elsewhere. */
  readWhole(sha256: string, memory: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>>;
  /** Continues a blob at its end. One writer at a time; the caller sees to that with a lock. */
  append(sha256: string): Promise<BlobWriter>;
  remove(sha256: string): Promise<void>;
  list(): Promise<{ sha256: string; bytes: number }[]>;
  readRecord(key: string): Promise<string | undefined>;
  writeRecord(key: string, text: string): Promise<void>;
  removeRecord(key: string): Promise<void>;
  /** Keys of all records. */
  listRecords(): Promise<string[]>;
}

export interface BlobWriter {
  /**
   * Rejects with `quota` when storage is full; what was written before stays. The memory of `bytes` is the caller's again
   * when this resolves.
   */
  write(bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  /** Drops what is stored and starts again at 0. */
  restart(): Promise<void>;
  /** Keeps what was written. To be called in every case. */
  close(): Promise<void>;
}

/** A store that opened and then does not do what it is there for, as in some private windows. */
export class StoreRefused extends Error {
  constructor(
    readonly kind: BlobStore['kind'],
    cause: unknown,
  ) {
    super(`the browser’s storage (${kind}) refused: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

/** Which store's refusal is behind an error, if any. */
export function refusedStore(error: unknown): BlobStore['kind'] | undefined {
  for (; error instanceof Error; error = error.cause) if (error instanceof StoreRefused) return error.kind;
  return undefined;
}

/** The store, whose failures are `StoreRefused`, but for those that are named already. */
export function guarded(store: BlobStore): BlobStore {
  return guard(store, store.kind, (writer) => guard(writer as BlobWriter, store.kind));
}

function guard<T extends object>(target: T, kind: BlobStore['kind'], after?: (result: unknown) => unknown): T {
  const made = Object.entries(target).map(([name, value]) => {
    if (typeof value !== 'function') return [name, value] as const;
    const method = async (...args: unknown[]): Promise<unknown> => {
      try {
        const result: unknown = await (value as (...args: unknown[]) => unknown).apply(target, args);
        return after && name === 'append' ? after(result) : result;
      } catch (error) {
        throw error instanceof HaikuqError ? error : new StoreRefused(kind, error);
      }
    };
    return [name, method] as const;
  });
  return Object.fromEntries(made) as T;
}

/** Storage that is full, in the browser's words; whoever knows the numbers completes it. */
export function asQuotaError(error: unknown): unknown {
  if (!(error instanceof Error) || error.name !== 'QuotaExceededError') return error;
  return new HaikuqError('quota', 'the browser’s storage for this site is full', {}, { cause: error });
}
