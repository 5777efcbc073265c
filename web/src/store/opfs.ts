/** Blobs and records in the origin private file system: `haikuq/blobs/SHA256` and `haikuq/packages/KEY`. */

import { asQuotaError, type BlobStore, type BlobWriter, guarded } from './blobs.js';

const FOLDER = 'haikuq';

/** How much a page's thread may write until it is safe: its streams only become a file when they are closed. */
const COMMIT_BYTES = 8 * 1024 * 1024;

/** A file that is open in place. Workers only; TypeScript's DOM library leaves it out. */
interface SyncAccessHandle {
  read(bytes: Uint8Array, options: { at: number }): number;
  write(bytes: Uint8Array, options: { at: number }): number;
  truncate(size: number): void;
  flush(): void;
  close(): void;
}
type SyncFileHandle = FileSystemFileHandle & { createSyncAccessHandle(options?: { mode: 'read-only' }): Promise<SyncAccessHandle> };

/**
 * The store, or undefined where the browser has no OPFS or keeps it closed (private windows of some). Pages of some
 * browsers may look at files and remove them, but write only in workers.
 */
export async function openOpfs(purpose: 'write' | 'look after' = 'write', storage?: StorageManager): Promise<BlobStore | undefined> {
  try {
    storage ??= navigator.storage;
    if (typeof storage?.getDirectory !== 'function') return undefined;
    const root = await (await storage.getDirectory()).getDirectoryHandle(FOLDER, { create: true });
    const blobs = await root.getDirectoryHandle('blobs', { create: true });
    const records = await root.getDirectoryHandle('packages', { create: true });
    if (purpose === 'write' && !(await isWritable(records))) return undefined;
    return guarded(opfsStore(blobs, records));
  } catch {
    return undefined;
  }
}

function opfsStore(blobs: FileSystemDirectoryHandle, records: FileSystemDirectoryHandle): BlobStore {
  async function read(sha256: string, start: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    const file = await openFile(blobs, sha256);
    if (!file) return new Uint8Array();
    try {
      return new Uint8Array(await file.slice(start, end).arrayBuffer());
    } catch (error) {
      // Another tab removed or rewrote the file since it was opened.
      if (isNamed(error, 'NotFoundError', 'NotReadableError', 'InvalidStateError')) return new Uint8Array();
      throw error;
    }
  }
  return {
    kind: 'opfs',
    async size(sha256) {
      return (await openFile(blobs, sha256))?.size ?? 0;
    },
    read,
    async readWhole(sha256, memory) {
      return (await readInPlace(blobs, sha256, memory)) ?? read(sha256, 0, memory.length);
    },
    async append(sha256) {
      const handle = await blobs.getFileHandle(sha256, { create: true });
      return hasSyncAccess(handle) ? appendInPlace(handle) : appendByStreams(handle);
    },
    async remove(sha256) {
      await unlocked(() => removeEntry(blobs, sha256));
    },
    async list() {
      const found: { sha256: string; bytes: number }[] = [];
      for (const sha256 of await names(blobs)) {
        found.push({ sha256, bytes: (await openFile(blobs, sha256))?.size ?? 0 });
      }
      return found;
    },
    async readRecord(key) {
      return (await openFile(records, key))?.text();
    },
    async writeRecord(key, text) {
      const handle = await records.getFileHandle(key, { create: true });
      try {
        if (typeof handle.createWritable !== 'function') return await writeInPlace(handle as SyncFileHandle, text);
        // A stream replaces the file as a whole when it is closed, so that a reader never sees half a record.
        const stream = await handle.createWritable();
        await stream.write(text);
        await stream.close();
      } catch (error) {
        throw asQuotaError(error);
      }
    },
    async removeRecord(key) {
      await removeEntry(records, key);
    },
    async listRecords() {
      return names(records);
    },
  };
}

async function appendInPlace(handle: SyncFileHandle): Promise<BlobWriter> {
  const access = await openInPlace(handle);
  let at = (await handle.getFile()).size;
  return {
    async write(bytes) {
      try {
        const written = access.write(bytes, { at });
        // Chromium's private windows count a full disk as 2³² less some error number, others count what they took.
        if (written !== bytes.length) throw new DOMException('the file cannot grow', 'QuotaExceededError');
        at += bytes.length;
      } catch (error) {
        // A part of the piece may have been written.
        access.truncate(at);
        throw asQuotaError(error);
      }
    },
    async restart() {
      access.truncate(0);
      at = 0;
    },
    async close() {
      // Not flushed: that waits for the disk, and hashes find the bytes that a power failure takes.
      access.close();
    },
  };
}

/** For pages, where files cannot be written in place: a stream is closed and opened again every few megabytes. */
async function appendByStreams(handle: FileSystemFileHandle): Promise<BlobWriter> {
  let stream: FileSystemWritableFileStream | undefined;
  let committed = (await handle.getFile()).size;
  let pending = 0;

  async function commit(): Promise<void> {
    const closing = stream;
    stream = undefined;
    await closing?.close();
    committed += pending;
    pending = 0;
  }
  return {
    async write(bytes) {
      try {
        stream ??= await handle.createWritable({ keepExistingData: true });
        await stream.write({ type: 'write', position: committed + pending, data: bytes });
        pending += bytes.length;
        if (pending >= COMMIT_BYTES) await commit();
      } catch (error) {
        // The stream is lost with what is in it; the file stays as it was committed.
        stream = undefined;
        pending = 0;
        throw asQuotaError(error);
      }
    },
    async restart() {
      await stream?.abort();
      stream = await handle.createWritable({ keepExistingData: false });
      committed = 0;
      pending = 0;
    },
    async close() {
      try {
        await commit();
      } catch (error) {
        throw asQuotaError(error);
      }
    },
  };
}

async function writeInPlace(handle: SyncFileHandle, text: string): Promise<void> {
  const access = await openInPlace(handle);
  try {
    access.truncate(0);
    access.write(new TextEncoder().encode(text), { at: 0 });
    access.flush();
  } finally {
    access.close();
  }
}

/** Several times as fast as through a `File`; undefined where the browser has it only in workers, or elsewhere it is open. */
async function readInPlace(
  folder: FileSystemDirectoryHandle,
  name: string,
  memory: Uint8Array<ArrayBuffer>,
): Promise<Uint8Array<ArrayBuffer> | undefined> {
  let access: SyncAccessHandle | undefined;
  try {
    const handle = await folder.getFileHandle(name);
    if (!hasSyncAccess(handle)) return undefined;
    // Where browsers know no modes, one tab at a time reads in place.
    access = await handle.createSyncAccessHandle({ mode: 'read-only' });
    return memory.subarray(0, access.read(memory, { at: 0 }));
  } catch {
    return undefined;
  } finally {
    access?.close();
  }
}

function openInPlace(handle: SyncFileHandle): Promise<SyncAccessHandle> {
  return unlocked(() => handle.createSyncAccessHandle());
}

/** Another tab may be reading the file, and after a reload the page before may hold it for some moments more than its locks. */
async function unlocked<T>(work: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await work();
    } catch (error) {
      if (tries === 20 || !isNamed(error, 'NoModificationAllowedError', 'InvalidStateError')) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

function hasSyncAccess(handle: FileSystemFileHandle): handle is SyncFileHandle {
  return typeof (handle as Partial<SyncFileHandle>).createSyncAccessHandle === 'function';
}

async function isWritable(folder: FileSystemDirectoryHandle): Promise<boolean> {
  const probe = await folder.getFileHandle('.probe', { create: true });
  return hasSyncAccess(probe) || typeof probe.createWritable === 'function';
}

async function openFile(folder: FileSystemDirectoryHandle, name: string): Promise<File | undefined> {
  try {
    return await (await folder.getFileHandle(name)).getFile();
  } catch (error) {
    if (isNamed(error, 'NotFoundError')) return undefined;
    throw error;
  }
}

async function removeEntry(folder: FileSystemDirectoryHandle, name: string): Promise<void> {
  try {
    await folder.removeEntry(name);
  } catch (error) {
    if (!isNamed(error, 'NotFoundError')) throw error;
  }
}

async function names(folder: FileSystemDirectoryHandle): Promise<string[]> {
  const found: string[] = [];
  // Hidden names are probes, and swap files of streams that never closed.
  for await (const name of folder.keys()) if (/^[0-9a-f]{64}$/.test(name)) found.push(name);
  return found;
}

function isNamed(error: unknown, ...expected: string[]): boolean {
  return error instanceof Error && expected.includes(error.name);
}
