/** The origin private file system in memory, as far as the store uses it, with its locks and its quota. */

export interface FakeOpfsOptions {
  /** Offer `createSyncAccessHandle`, as in workers. */
  sync: boolean;
  /** Offer no `createWritable` either. */
  readOnly?: boolean;
  /** What throws although it is there, as in some private windows. */
  refuse?: 'createWritable' | 'createSyncAccessHandle' | 'write' | undefined;
  /** Bytes that all files may have together. */
  quota?: number;
  /** How a file that is open in place tells that the disk is full, after it took what it can; default: by a small count. */
  whenFull?: 'short count' | 'wrapped error';
}

export interface FakeOpfs {
  storage: StorageManager;
  options: FakeOpfsOptions;
  /** Contents of a file below the root, to look at and to damage. */
  file(path: string): Uint8Array<ArrayBuffer> | undefined;
  paths(): string[];
  /** Files that were opened to be read in place. */
  readInPlace: string[];
}

interface FakeFile {
  bytes: Uint8Array<ArrayBuffer>;
  /** Open in place, for writing or by readers, which share it. */
  locked: boolean;
  readers?: number;
}

export function fakeOpfs(options: FakeOpfsOptions): FakeOpfs {
  const files = new Map<string, FakeFile>();
  const readInPlace: string[] = [];
  const used = () => [...files.values()].reduce((sum, file) => sum + file.bytes.length, 0);

  function checkQuota(more: number): void {
    if (used() + more > (options.quota ?? Infinity)) throw new DOMException('full', 'QuotaExceededError');
  }
  function refuse(what: FakeOpfsOptions['refuse']): void {
    if (options.refuse === what) throw new DOMException(what, 'UnknownError');
  }
  function resize(file: FakeFile, size: number): void {
    const bytes = new Uint8Array(size);
    bytes.set(file.bytes.subarray(0, size));
    file.bytes = bytes;
  }
  function put(file: FakeFile, at: number, bytes: Uint8Array): void {
    if (at + bytes.length > file.bytes.length) {
      checkQuota(at + bytes.length - file.bytes.length);
      resize(file, at + bytes.length);
    }
    file.bytes.set(bytes, at);
  }

  function fileHandle(path: string): object {
    const get = () => {
      const file = files.get(path);
      if (!file) throw new DOMException(path, 'NotFoundError');
      return file;
    };
    return {
      kind: 'file',
      async getFile() {
        return new File([get().bytes], path.split('/').at(-1) as string);
      },
      createWritable: options.readOnly
        ? undefined
        : async ({ keepExistingData = false } = {}) => {
            refuse('createWritable');
            const swap: FakeFile = { bytes: keepExistingData ? get().bytes.slice() : new Uint8Array(), locked: false };
            return {
              async write(data: string | { position: number; data: Uint8Array }) {
                if (typeof data === 'string') put(swap, swap.bytes.length, new TextEncoder().encode(data));
                else {
                  checkQuota(Math.max(0, data.position + data.data.length - get().bytes.length));
                  put(swap, data.position, data.data);
                }
              },
              async close() {
                get().bytes = swap.bytes;
              },
              async abort() {},
            };
          },
      ...(options.sync
        ? {
            async createSyncAccessHandle({ mode = 'readwrite' } = {}) {
              refuse('createSyncAccessHandle');
              const file = get();
              const readers = file.readers ?? 0;
              const shared = mode === 'read-only';
              if (file.locked || (readers > 0 && !shared)) throw new DOMException(path, 'NoModificationAllowedError');
              if (shared) {
                file.readers = readers + 1;
                readInPlace.push(path);
              } else file.locked = true;
              return {
                read(bytes: Uint8Array, { at }: { at: number }) {
                  const some = file.bytes.subarray(at, at + bytes.length);
                  bytes.set(some);
                  return some.length;
                },
                write(bytes: Uint8Array, { at }: { at: number }) {
                  refuse('write');
                  // A full disk takes what it can.
                  const room = Math.max(0, (options.quota ?? Infinity) - used() + file.bytes.length - at);
                  put(file, at, bytes.subarray(0, Math.min(room, bytes.length)));
                  // Chromium's private windows: the error number -8, as an unsigned integer.
                  if (options.whenFull === 'wrapped error' && room < bytes.length) return 2 ** 32 - 8;
                  return Math.min(room, bytes.length);
                },
                truncate: (size: number) => resize(file, size),
                flush() {},
                close() {
                  if (shared) file.readers = (file.readers ?? 1) - 1;
                  else file.locked = false;
                },
              };
            },
          }
        : {}),
    };
  }

  function folderHandle(prefix: string): object {
    return {
      kind: 'directory',
      async getDirectoryHandle(name: string) {
        return folderHandle(`${prefix}${name}/`);
      },
      async getFileHandle(name: string, { create = false } = {}) {
        if (!files.has(prefix + name)) {
          if (!create) throw new DOMException(name, 'NotFoundError');
          files.set(prefix + name, { bytes: new Uint8Array(), locked: false });
        }
        return fileHandle(prefix + name);
      },
      async removeEntry(name: string) {
        const file = files.get(prefix + name);
        if (!file) throw new DOMException(name, 'NotFoundError');
        if (file.locked || (file.readers ?? 0) > 0) throw new DOMException(name, 'NoModificationAllowedError');
        files.delete(prefix + name);
      },
      async *keys() {
        for (const path of files.keys()) if (path.startsWith(prefix)) yield path.slice(prefix.length);
      },
    };
  }

  const storage = {
    getDirectory: async () => folderHandle(''),
    estimate: async () => (options.quota === undefined ? {} : { quota: options.quota, usage: used() }),
    persisted: async () => false,
  };
  return {
    storage: storage as unknown as StorageManager,
    options,
    file: (path) => files.get(path)?.bytes,
    paths: () => [...files.keys()],
    readInPlace,
  };
}
