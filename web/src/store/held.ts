/** Whole shards in memory, hashed by the browser: its SHA-256 is several times as fast as WebAssembly's, on other threads. */

import type { HeldFile } from '../engine/engine.js';
import type { PackageFile } from './manifest.js';
import type { Hasher } from './hash.js';
import type { StageClock } from './stages.js';

/** Larger files are read and hashed piece by piece. */
export const MAX_HELD_BYTES = 64 * 1024 * 1024;

/** In memory at a time: those that are hashed, one that is uploaded, one that is read. */
export const heldFiles = ({ atOnce }: Hasher): number => atOnce + 2;

/** Reads the whole of a file, into `memory` or elsewhere; the answer is shorter where the file is. */
export type ReadWhole = (file: PackageFile, memory: Uint8Array<ArrayBuffer>) => Promise<Uint8Array<ArrayBuffer>>;

/** Gives the whole of a file, or undefined where it is to be read in pieces. One at a time: the one before was released. */
export type Hold = (file: PackageFile) => Promise<HeldFile | undefined>;

/**
 * Holds `files`, which are wanted in this order: while one is used, the next ones are read and hashed. Memory is used
 * again for the next file, since a browser takes longer to get new memory than to fill it.
 */
export function holder(files: PackageFile[], read: ReadWhole, { stages, hasher }: { stages: StageClock; hasher: Hasher }): Hold {
  const fitting = isOffered() ? files.filter(({ bytes }) => bytes <= MAX_HELD_BYTES) : [];
  const largest = Math.max(0, ...fitting.map(({ bytes }) => bytes));
  const coming = new Map<PackageFile, Promise<HeldFile>>();
  const free: ArrayBuffer[] = [];

  async function hold(file: PackageFile): Promise<HeldFile> {
    const memory = free.pop() ?? new ArrayBuffer(largest);
    const found = await read(file, new Uint8Array(memory, 0, file.bytes));
    const { bytes, sha256 } = await stages.time('hash', () => hasher.hash(found));
    stages.add('hash', bytes.length);
    return {
      bytes,
      sha256,
      upload(queue, buffer, to, start, end) {
        stages.add('upload', end - start);
        stages.timeNow('upload', () => queue.writeBuffer(buffer, to, bytes, start, end - start));
      },
      release() {
        // The engine keeps its source; this memory is not to stay with it.
        if (coming.size === 0) free.length = 0;
        else if (bytes.buffer.byteLength === largest) free.push(bytes.buffer);
      },
    };
  }
  function begin(file: PackageFile): Promise<HeldFile> {
    const held = hold(file);
    coming.set(file, held);
    // The caller that asks for the file sees the error.
    held.catch(() => undefined);
    return held;
  }
  return async (file) => {
    const at = fitting.indexOf(file);
    if (at < 0) return undefined;
    const held = coming.get(file) ?? begin(file);
    for (const next of fitting.slice(at + 1, at + heldFiles(hasher))) if (!coming.has(next)) void begin(next);
    coming.delete(file);
    return held;
  };
}

/** The page's own thread is not to be blocked while the browser copies what it is to hash. */
function isOffered(): boolean {
  return globalThis.document === undefined && globalThis.crypto?.subtle !== undefined;
}
