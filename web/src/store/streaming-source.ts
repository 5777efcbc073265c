/** A package straight from the network: nothing is stored, and no more is in memory than the engine asks for. */

import type { Source } from '../engine/engine.js';
import { PARALLEL_DOWNLOADS, type DownloadCounts } from './download.js';
import { fetchBytes, type FetchedBytes, type FetchOptions, type Network } from './fetch.js';
import { fileUrl } from './location.js';
import { filesInReadingOrder, type Manifest, type PackageFile } from './manifest.js';
import { packageSource } from './sources.js';

export interface StreamingOptions {
  network: Network;
  prefix: string;
  signal: AbortSignal;
  onProgress: (counts: DownloadCounts) => void;
}

/**
 * Files are read from one response each as long as they are read from front to back; any other read begins a Range
 * request. While a file is read the next one is asked for already, and waits in the browser's network buffers.
 */
export function streamingSource(manifest: Manifest, { network, prefix, signal, onProgress }: StreamingOptions): Source {
  const files = filesInReadingOrder(manifest);
  const streams = new Map<string, FileStream>();
  /** What turned out to be corrupt, and may be so in the HTTP cache. */
  const fresh = new Set<string>();
  const downloadTotalBytes = files.reduce((sum, file) => sum + file.bytes, 0);
  const fetched = new Map<string, number>();

  function open(file: PackageFile, start: number): FileStream {
    close(file);
    const options: FetchOptions = { signal, cache: fresh.has(file.name) ? 'reload' : 'default' };
    const stream = fileStream(fetchBytes(network, fileUrl(prefix, file.name, file.sha256), file, start, options), start);
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

  return packageSource(manifest, {
    async read(file, start, end) {
      let stream = streams.get(file.name);
      if (stream?.position !== start) stream = open(file, start);
      prepareNext(file);
      try {
        const bytes = await stream.take(end - start);
        report(file, end);
        if (end === file.bytes) close(file);
        return bytes;
      } catch (error) {
        close(file);
        throw error;
      }
    },
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
  take(length: number): Promise<Uint8Array>;
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
    async take(length) {
      const taken = new Uint8Array(length);
      let filled = 0;
      while (filled < length) {
        if (rest.length === 0) {
          const { done, value } = await pull();
          if (done) break;
          // Where the server's file changed meanwhile, bytes come again. What is mixed then, its hash shows.
          rest = value.bytes.subarray(Math.max(0, Math.min(value.bytes.length, position - value.at)));
          continue;
        }
        const piece = rest.subarray(0, length - filled);
        taken.set(piece, filled);
        filled += piece.length;
        position += piece.length;
        rest = rest.subarray(piece.length);
      }
      return taken.subarray(0, filled);
    },
    close() {
      chunks.return().catch(() => undefined);
    },
  };
}
