/** What the engine reads a package from: the store, the network, or files that the user picked. */

import type { Source } from '../engine/engine.js';
import { HaikuqError } from '../errors.js';
import type { BlobStore } from './blobs.js';
import type { Downloads } from './download.js';
import { filesInReadingOrder, MANIFEST, type Manifest, type PackageFile } from './manifest.js';

/** Reads what is stored, and waits for what is not stored yet. */
export function storedSource(manifest: Manifest, store: BlobStore, downloads: Downloads): Source {
  const refreshed = new Set<string>();
  return packageSource(manifest, {
    async read(file, start, end) {
      await downloads.ready(file);
      const bytes = await store.read(file.sha256, start, end);
      if (bytes.length === end - start) return bytes;
      // Another tab found the blob damaged and is replacing it, or it was removed: wait, or download it ourselves.
      await downloads.restore(file);
      return store.read(file.sha256, start, end);
    },
    async refresh(file) {
      if (refreshed.has(file.sha256)) return false;
      refreshed.add(file.sha256);
      await downloads.replace(file);
      return true;
    },
  });
}

/** Reads `File`s where they lie; nothing is copied. There is no other copy to get. */
export function fileSource(manifest: Manifest, open: (name: string) => Promise<File>): Source {
  return packageSource(manifest, {
    async read({ name, bytes }, start, end) {
      const file = await open(name);
      if (file.size !== bytes) {
        const message = `${name} has ${file.size} bytes, the manifest says ${bytes}`;
        throw new HaikuqError('integrity', message, { file: name, needed: bytes, available: file.size });
      }
      return new Uint8Array(await file.slice(start, end).arrayBuffer());
    },
    async refresh() {
      return false;
    },
  });
}

/** How one kind of source treats the files that the manifest lists; ranges lie within them. */
export interface FileReader {
  read(file: PackageFile, start: number, end: number): Promise<Uint8Array>;
  refresh(file: PackageFile): Promise<boolean>;
}

/** What all sources have in common: the manifest's text is at hand, and only listed files exist. */
export function packageSource(manifest: Manifest, reader: FileReader): Source {
  const text = new TextEncoder().encode(manifest.text);
  const files = new Map(filesInReadingOrder(manifest).map((file) => [file.name, file]));

  function find(name: string): PackageFile {
    const file = files.get(name);
    if (!file) throw new HaikuqError('invalid-package', `${name} is not listed in ${MANIFEST}`, { file: name });
    return file;
  }
  return {
    async read(name, start, end) {
      if (name === MANIFEST) return text.slice(start, end);
      const file = find(name);
      const last = Math.min(end, file.bytes);
      return start < last ? reader.read(file, start, last) : new Uint8Array();
    },
    async refresh(name) {
      return name === MANIFEST ? false : reader.refresh(find(name));
    },
  };
}
