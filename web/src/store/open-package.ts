/** From a location to something that an engine can read: manifest, store, room, downloads. */

import type { Source } from '../engine/engine.js';
import { HaikuqError } from '../errors.js';
import type { LoadOptions } from '../types.js';
import type { BlobStore } from './blobs.js';
import { beginVersion, type CatalogEntry, completeVersion, dropOldVersion, manifestsOf, readEntry, removePackage } from './catalog.js';
import { createDownloads, type DownloadCounts, type Downloads } from './download.js';
import { fetchText, type Network } from './fetch.js';
import { fileUrl, packageKey, type ResolvedLocation } from './location.js';
import { filesInReadingOrder, MANIFEST, type Manifest, MAX_MANIFEST_BYTES, type PackageFile, parseManifest } from './manifest.js';
import { openStore, openStores } from './open-store.js';
import { availableBytes, quotaError } from './quota.js';
import { fileSource, type SourceTools, storedSource } from './sources.js';
import { streamingSource } from './streaming-source.js';

export interface OpenPackage {
  manifest: Manifest;
  /** Downloads begin with the first read of a file other than the manifest. */
  newSource(): Source;
  /** Where times of kernels are kept, beside the package; absent where nothing is stored. */
  kernelTimes?: KernelTimes;
  /** The package was read to the end: it can be loaded without network from now on, and old versions go. */
  markComplete(): Promise<void>;
  /** Stops downloads; resolves when what arrived is stored. */
  close(): Promise<void>;
}

/** One small text for all packages. Times that cannot be read or written are measured again at the next load. */
export interface KernelTimes {
  read(): Promise<string | undefined>;
  write(text: string): Promise<void>;
}

export interface OpenOptions extends SourceTools {
  cache: NonNullable<LoadOptions['cache']>;
  /** Default: where the package comes over http. */
  sha256Query?: boolean | undefined;
  /** Stores that are not to be used, as they do not work. */
  refused?: ReadonlySet<BlobStore['kind']>;
  network: Network;
  signal: AbortSignal;
  onProgress: (counts: DownloadCounts) => void;
}

/** How long a stored manifest waits for a newer one, and a load without one for its only one. */
const MANIFEST_TIMEOUT_MS = { stored: 5_000, missing: 30_000 };

export async function openPackage(location: ResolvedLocation, options: OpenOptions): Promise<OpenPackage> {
  switch (location.kind) {
    case 'files':
      return openFiles(options, async (name) => {
        const file = location.files.find((file) => file.name === name);
        return file && 'getFile' in file ? file.getFile() : file;
      });
    case 'folder':
      return openFiles(options, (name) => fileOfFolder(location.handle, name));
    case 'url': {
      const store = await openStore(options.cache, options.refused);
      return store ? openStored(location.prefix, store, options) : openStreaming(location.prefix, options);
    }
  }
}

/** Forgets what a store of this kind began to keep and will not complete, as it refuses. Never rejects. */
export async function forgetUnfinished(location: ResolvedLocation, kind: BlobStore['kind']): Promise<void> {
  if (location.kind !== 'url') return;
  try {
    const key = packageKey(location.prefix);
    for (const store of await openStores()) {
      // A version that is complete can be read without writing.
      if (store.kind === kind && (await readEntry(store, key))?.current === undefined) await removePackage(store, key);
    }
  } catch {
    // It refuses this too.
  }
}

async function openStored(prefix: string, store: BlobStore, options: OpenOptions): Promise<OpenPackage> {
  const { network, onProgress, signal, stages } = options;
  const key = packageKey(prefix);
  const entry = await readEntry(store, key);
  const { manifest, newest } = await latestManifest(prefix, store, entry, options);
  await beginVersion(store, key, manifest, newest);
  const downloads = createDownloads({
    store,
    network,
    urlOf: urlsOf(prefix, options),
    files: filesInReadingOrder(manifest),
    stages,
    onProgress,
  });
  signal.addEventListener('abort', downloads.stop, { once: true });
  await ensureRoom(downloads, async (bytes) => {
    if (entry?.current === undefined || entry.current === manifest.text) return false;
    return dropOldVersion(store, key, manifest, bytes);
  });
  return {
    manifest,
    kernelTimes: keptIn(store),
    newSource: () => storedSource(manifest, store, downloads, options),
    async markComplete() {
      await Promise.all(filesInReadingOrder(manifest).map((file) => downloads.ready(file)));
      await completeVersion(store, key, manifest);
    },
    async close() {
      downloads.stop();
      await downloads.settled();
    },
  };
}

/** Other schemes than http have no caches, and handlers that may take a query for a part of the name. */
function urlsOf(prefix: string, { sha256Query = prefix.startsWith('http') }: OpenOptions): (file: PackageFile) => string {
  return ({ name, sha256 }) => fileUrl(prefix, name, sha256Query ? sha256 : undefined);
}

/** Its name is no hash, so that the catalog takes it for no package. */
const KERNEL_TIMES = 'kernel-times.json';

function keptIn(store: BlobStore): KernelTimes {
  return {
    read: () => store.readRecord(KERNEL_TIMES).catch(() => undefined),
    write: (text) => store.writeRecord(KERNEL_TIMES, text).catch(() => undefined),
  };
}

async function openStreaming(prefix: string, options: OpenOptions): Promise<OpenPackage> {
  const { network, signal } = options;
  const manifest = parseManifest(await fetchManifest(network, prefix, MANIFEST_TIMEOUT_MS.missing, 4, signal));
  const controller = new AbortController();
  const close = () => controller.abort();
  signal.addEventListener('abort', close, { once: true });
  return {
    manifest,
    newSource: () => streamingSource(manifest, { ...options, urlOf: urlsOf(prefix, options), signal: controller.signal }),
    async markComplete() {},
    async close() {
      close();
    },
  };
}

async function openFiles(tools: SourceTools, find: (name: string) => Promise<File | undefined>): Promise<OpenPackage> {
  async function open(name: string): Promise<File> {
    const file = await find(name);
    if (!file) throw new HaikuqError('invalid-package', `${name} is missing from the folder`, { file: name });
    return file;
  }
  const file = await open(MANIFEST);
  if (file.size > MAX_MANIFEST_BYTES) {
    throw new HaikuqError('invalid-package', `${MANIFEST} has ${file.size} bytes, at most ${MAX_MANIFEST_BYTES} are read`);
  }
  const manifest = parseManifest(await file.text());
  return { manifest, newSource: () => fileSource(manifest, tools, open), async markComplete() {}, async close() {} };
}

/** The server's manifest, the newest; where it cannot be had, the one of a version that is stored as a whole. */
async function latestManifest(
  prefix: string,
  store: BlobStore,
  entry: CatalogEntry | undefined,
  { network, signal }: OpenOptions,
): Promise<{ manifest: Manifest; newest: boolean }> {
  const stored = await completeManifest(store, entry);
  try {
    const [timeoutMs, attempts] = stored ? [MANIFEST_TIMEOUT_MS.stored, 1] : [MANIFEST_TIMEOUT_MS.missing, 4];
    return { manifest: parseManifest(await fetchManifest(network, prefix, timeoutMs, attempts, signal)), newest: true };
  } catch (error) {
    // Also where the answer was no manifest: a portal's login page comes with status 200.
    if (stored && !signal.aborted) return { manifest: stored, newest: false };
    throw error;
  }
}

function fetchManifest(network: Network, prefix: string, timeoutMs: number, attempts: number, signal: AbortSignal): Promise<string> {
  return fetchText(network, fileUrl(prefix, MANIFEST), MANIFEST, { limit: MAX_MANIFEST_BYTES, timeoutMs, attempts, signal });
}

async function completeManifest(store: BlobStore, entry: CatalogEntry | undefined): Promise<Manifest | undefined> {
  for (const manifest of entry ? manifestsOf(entry) : []) {
    const files = filesInReadingOrder(manifest);
    const sizes = await Promise.all(files.map((file) => store.size(file.sha256)));
    if (files.every((file, i) => file.bytes === sizes[i])) return manifest;
  }
  return undefined;
}

/** `makeRoom` makes so many bytes of room, or changes nothing and says false. */
async function ensureRoom(downloads: Downloads, makeRoom: (bytes: number) => Promise<boolean>): Promise<void> {
  const needed = await downloads.missingBytes();
  const available = needed > 0 ? await availableBytes() : undefined;
  if (available === undefined || needed <= available) return;
  // The browser is not asked again: its estimate may lag behind what was removed.
  if (await makeRoom(needed - available)) return;
  throw quotaError(needed, available);
}

async function fileOfFolder(handle: FileSystemDirectoryHandle, name: string): Promise<File | undefined> {
  try {
    return await (await handle.getFileHandle(name)).getFile();
  } catch (error) {
    if (error instanceof Error && error.name === 'NotFoundError') return undefined;
    throw error;
  }
}
