/** What the engine reads a package from: the store, the network, or files that the user picked. */

import type { Source } from '../engine/engine.js';
import { HaikuqError } from '../errors.js';
import type { BlobStore } from './blobs.js';
import type { Downloads } from './download.js';
import type { Hasher } from './hash.js';
import { holder, type ReadWhole } from './held.js';
import { filesInReadingOrder, MANIFEST, type Manifest, type PackageFile } from './manifest.js';
import type { StageClock } from './stages.js';

/** What sources of all kinds work with. */
export interface SourceTools {
  stages: StageClock;
  hasher: Hasher;
}

/** Reads what is stored, and waits for what is not stored yet. */
export function storedSource(manifest: Manifest, store: BlobStore, downloads: Downloads, tools: SourceTools): Source {
  const { stages } = tools;
  const refreshed = new Set<string>();

  async function readStored<T extends Uint8Array>(file: PackageFile, length: number, read: () => Promise<T>): Promise<T> {
    await downloads.ready(file);
    const bytes = await stages.time('read', read);
    stages.add('read', bytes.length);
    if (bytes.length === length) return bytes;
    // Another tab found the blob damaged and is replacing it, or it was removed: wait, or download it ourselves.
    await downloads.restore(file);
    return read();
  }
  return packageSource(manifest, tools, {
    read: (file, start, end) => readStored(file, end - start, () => store.read(file.sha256, start, end)),
    readWhole: (file, memory) => readStored(file, file.bytes, () => store.readWhole(file.sha256, memory)),
    async refresh(file) {
      if (refreshed.has(file.sha256)) return false;
      refreshed.add(file.sha256);
      await downloads.replace(file);
      return true;
    },
  });
}

/** Reads `File`s where they lie; nothing is copied. There is no other copy to get. */
export function fileSource(manifest: Manifest, tools: SourceTools, open: (name: string) => Promise<File>): Source {
  async function read({ name, bytes }: PackageFile, start: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    const file = await open(name);
    if (file.size !== bytes) {
      const message = `${name} has ${file.size} bytes, the manifest says ${bytes}`;
      throw new HaikuqError('integrity', message, { file: name, needed: bytes, available: file.size });
    }
    tools.stages.add('read', end - start);
    return new Uint8Array(await tools.stages.time('read', () => file.slice(start, end).arrayBuffer()));
  }
  return packageSource(manifest, tools, {
    read,
    readWhole: (file) => read(file, 0, file.bytes),
    async refresh() {
      return false;
    },
  });
}

/** How one kind of source treats the files that the manifest lists; ranges lie within them. */
export interface FileReader {
  read(file: PackageFile, start: number, end: number): Promise<Uint8Array>;
  readWhole: ReadWhole;
  refresh(file: PackageFile): Promise<boolean>;
}

/** What all sources have in common: the manifest's text is at hand, and only listed files exist. */
export function packageSource(manifest: Manifest, tools: SourceTools, reader: FileReader): Source {
  const text = new TextEncoder().encode(manifest.text);
  const files = new Map(filesInReadingOrder(manifest).map((file) => [file.name, file]));
  const hold = holder(manifest.shards, reader.readWhole, tools);

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
    async hold(name) {
      return name === MANIFEST ? undefined : hold(find(name));
    },
    async refresh(name) {
      return name === MANIFEST ? false : reader.refresh(find(name));
    },
  };
}
