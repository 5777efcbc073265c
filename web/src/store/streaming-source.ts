/** A package straight from the network: nothing is stored, and no more is in memory than the engine will ask for next. */

import type { Source } from '../engine/engine.js';
import { PARALLEL_DOWNLOADS, type DownloadCounts } from './download.js';
import { fetchBytes, type FetchedBytes, type FetchOptions, type Network } from './fetch.js';
import { limit } from './limit.js';
import { filesInReadingOrder, type Manifest, type PackageFile } from './manifest.js';
import { packageSource, type SourceTools } from './sources.js';

export interface StreamingOptions extends SourceTools {
  network: Network;
  /** The URL of a file. */
  urlOf: (file: PackageFile) => string;
  signal: AbortSignal;
  onProgress: (counts: DownloadCounts) => void;
}

/**
 * Files are read from one response each as long as they are read from front to back; any other read begins a Range
 * request. While a file is read the next one is asked for already, and waits in the browser's network buffers.
 */
export function streamingSource(manifest: Manifest, options: StreamingOptions): Source {
  const { network, urlOf, signal, stages, onProgress } = options;
  const slot = limit(PARALLEL_DOWNLOADS);
  const files = filesInReadingOrder(manifest);
  const streams = new Map<string, FileStream>();
  /** What turned out to be corrupt, and may be so in the HTTP cache. */
  const fresh = new Set<string>();
  const downloadTotalBytes = files.reduce((sum, file) => sum + file.bytes, 0);
  const fetched = new Map<string, number>();

  function open(file: PackageFile, start: number): FileStream {
    close(file);
    const whole = fresh.has(file.name);
    const how: FetchOptions = { signal, cache: whole ? 'reload' : 'default', stages, whole };
    const stream = fileStream(fetchBytes(network, urlOf(file), file, start, how), start);
    streams.set(file.name, stream);
    return stream;
  }
  function close({ name }: PackageFile): void {
    streams.get(name)?.close();
    streams.delete(name);
  }
  function prepareNext(file: PackageFile): void {
    const next = files[files.indexOf(file) + 1];
    if (!next || streams.has(next.name) || streams.size >= PARALLEL_DOWNLOADS) return;
    open(next, 0).prepare();
  }
  function report(file: PackageFile, end: number): void {
    fetched.set(file.name, Math.max(end, fetched.get(file.name) ?? 0));
    const downloadedBytes = [...fetched.values()].reduce((sum, bytes) => sum + bytes, 0);
    onProgress({ downloadedBytes, downloadTotalBytes });
  }

  /** Bytes of a file from `start` on, as many as `memory` has. */
  async function fill(file: PackageFile, start: number, memory: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
    const end = start + memory.length;
    let stream = streams.get(file.name);
    if (stream?.position !== start) stream = open(file, start);
    try {
      const bytes = await stream.fill(memory, (filled) => report(file, start + filled));
      if (end === file.bytes) close(file);
      return bytes;
    } catch (error) {
      close(file);
      throw error;
    }
  }
  return packageSource(manifest, options, {
    read(file, start, end) {
      const filled = fill(file, start, new Uint8Array(end - start));
      prepareNext(file);
      return filled;
    },
    readWhole: (file, memory) => slot(() => fill(file, 0, memory)),
    async refresh(file) {
      close(file);
      if (fresh.has(file.name)) return false;
      fresh.add(file.name);
      return true;
    },
  });
}

interface FileStream {
  /** Where the next bytes that can be taken lie in the file. */
  readonly position: number;
  /** Sends the request, and takes no more than its first bytes. */
  prepare(): void;
  /** Fewer bytes than `memory` has where the file ends. */
  fill(memory: Uint8Array<ArrayBuffer>, onFilled: (bytes: number) => void): Promise<Uint8Array<ArrayBuffer>>;
  close(): void;
}

function fileStream(chunks: AsyncGenerator<FetchedBytes, void, undefined>, start: number): FileStream {
  let position = start;
  let rest: Uint8Array = new Uint8Array();
  let coming: Promise<IteratorResult<FetchedBytes, void>> | undefined;

  function pull(): Promise<IteratorResult<FetchedBytes, void>> {
    const next = coming ?? chunks.next();
    coming = undefined;
    return next;
  }
  return {
    get position() {
      return position;
    },
    prepare() {
      coming = chunks.next();
      // If it fails, the read that wants it will say so.
      coming.catch(() => undefined);
    },
    async fill(memory, onFilled) {
      let filled = 0;
      while (filled < memory.length) {
        if (rest.length === 0) {
          const { done, value } = await pull();
          if (done) break;
          // Where the server's file changed meanwhile, bytes come again. Their hash shows bytes that are mixed then.
          rest = value.bytes.subarray(Math.max(0, Math.min(value.bytes.length, position - value.at)));
          continue;
        }
        const piece = rest.subarray(0, memory.length - filled);
        memory.set(piece, filled);
        filled += piece.length;
        position += piece.length;
        rest = rest.subarray(piece.length);
        onFilled(filled);
      }
      return memory.subarray(0, filled);
    },
    close() {
      chunks.return().catch(() => undefined);
    },
  };
}
