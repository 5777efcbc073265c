/** Downloads a package's files into a store, two at a time. */

import { HaikuqError } from '../errors.js';
import { asQuotaError, type BlobStore, type BlobWriter } from './blobs.js';
import { distinctBlobs } from './catalog.js';
import { fetchBytes, type Network } from './fetch.js';
import { limit } from './limit.js';
import { withLock } from './locks.js';
import type { PackageFile } from './manifest.js';
import { availableBytes, quotaError } from './quota.js';
import type { StageClock } from './stages.js';

/** Shards in flight: enough to keep a connection busy while one is finished, few enough for phones. */
export const PARALLEL_DOWNLOADS = 2;

export interface DownloadCounts {
  /** Bytes that came over the network. */
  downloadedBytes: number;
  /** Bytes that have come or have to come. */
  downloadTotalBytes: number;
}

export interface Downloads {
  /** Resolves when the file is stored as a whole. The first call begins with all files. */
  ready(file: PackageFile): Promise<void>;
  /** The file's blob is gone, or another tab is replacing it: stores what is missing, before all other files. */
  restore(file: PackageFile): Promise<void>;
  /** The file's blob is wrong: fetches it again, before all other files. */
  replace(file: PackageFile): Promise<void>;
  /** Bytes still to be stored, as of now. */
  missingBytes(): Promise<number>;
  /** Settles when none is under way any more. */
  settled(): Promise<void>;
  stop(): void;
}

export interface DownloadOptions {
  store: BlobStore;
  network: Network;
  /** The URL of a file. */
  urlOf: (file: PackageFile) => string;
  /** In the order in which they are wanted. */
  files: PackageFile[];
  stages: StageClock;
  onProgress: (counts: DownloadCounts) => void;
}

export function createDownloads({ store, network, urlOf, files, stages, onProgress }: DownloadOptions): Downloads {
  const blobs = distinctBlobs(files);
  const controller = new AbortController();
  const { signal } = controller;
  const slot = limit(PARALLEL_DOWNLOADS);
  const jobs = new Map<string, Promise<void>>();
  const fetched = new Map<string, { bytes: number; total: number }>();
  /** A caller that waits for a file sees the error, and gets another try by asking again. */
  const asked = new WeakSet<Promise<void>>();
  /** Failed before anybody waited. */
  const unseen = new Set<Promise<void>>();
  let begun = false;

  function report(sha256: string, bytes: number, total: number): void {
    fetched.set(sha256, { bytes, total });
    let downloadedBytes = 0;
    let downloadTotalBytes = 0;
    for (const count of fetched.values()) {
      downloadedBytes += count.bytes;
      downloadTotalBytes += count.total;
    }
    onProgress({ downloadedBytes, downloadTotalBytes });
  }

  function enqueue(file: PackageFile, anew: boolean, urgent?: 'urgent'): Promise<void> {
    const { sha256 } = file;
    const job = slot(async () => {
      try {
        await withLock(`blob:${sha256}`, signal, () => download(file, anew));
      } catch (error) {
        throw await withNumbers(error);
      }
    }, urgent);
    jobs.set(sha256, job);
    job.catch(() => {
      if (jobs.get(sha256) !== job) return;
      if (asked.has(job)) jobs.delete(sha256);
      else unseen.add(job);
    });
    return job;
  }

  function askedFor(job: Promise<void>): Promise<void> {
    asked.add(job);
    return job;
  }

  /** With the blob's lock: another tab may have stored it, or a part of it, since we looked. */
  async function download(file: PackageFile, anew: boolean): Promise<void> {
    const { sha256 } = file;
    let size = await store.size(sha256);
    if (size > file.bytes || (anew && size > 0)) {
      await store.remove(sha256);
      size = 0;
    }
    report(sha256, 0, file.bytes - size);
    if (size === file.bytes) return;
    await closingAfter(await store.append(sha256), async (writer) => {
      let first = size;
      let end = size;
      // The HTTP cache would only keep a second copy, and give back the first one where that is corrupt.
      for await (const { at, bytes } of fetchBytes(network, urlOf(file), file, size, { signal, cache: 'no-store', stages, whole: anew })) {
        if (at < end) {
          await writer.restart();
          first = 0;
        }
        await stages.time('store', () => writer.write(bytes));
        stages.add('store', bytes.length);
        end = at + bytes.length;
        report(sha256, end - first, file.bytes - first);
      }
    });
  }

  async function missingBytes(): Promise<number> {
    let missing = 0;
    for (const { sha256, bytes } of blobs) {
      const left = Math.max(0, bytes - (await store.size(sha256)));
      missing += left;
      if (!begun) report(sha256, 0, left);
    }
    return missing;
  }

  /** Storage that is full says so with numbers. */
  async function withNumbers(error: unknown): Promise<unknown> {
    const cause = asQuotaError(error);
    if (!(cause instanceof HaikuqError) || cause.code !== 'quota') return cause;
    return quotaError(await missingBytes(), await availableBytes(), cause);
  }

  return {
    ready(file) {
      if (!begun) {
        begun = true;
        for (const blob of blobs) void enqueue(blob, false);
      }
      const job = jobs.get(file.sha256) ?? enqueue(file, false);
      void askedFor(job);
      if (unseen.delete(job)) jobs.delete(file.sha256);
      return job;
    },
    restore(file) {
      return askedFor(enqueue(file, false, 'urgent'));
    },
    replace(file) {
      return askedFor(enqueue(file, true, 'urgent'));
    },
    missingBytes,
    async settled() {
      await Promise.allSettled(jobs.values());
    },
    stop() {
      controller.abort();
    },
  };
}

/** Closes the writer in every case, so that what arrived is kept. */
async function closingAfter(writer: BlobWriter, work: (writer: BlobWriter) => Promise<void>): Promise<void> {
  try {
    await work(writer);
  } catch (error) {
    await writer.close().catch(() => undefined);
    throw error;
  }
  await writer.close();
}
