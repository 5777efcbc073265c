/** What is stored, for applications that show and remove it. */

import { HaikuqError } from '../errors.js';
import type { BlobStore } from './blobs.js';
import { distinctBlobs, listEntries, manifestsOf, removePackage } from './catalog.js';
import { packageKey, resolveLocation } from './location.js';
import { filesInReadingOrder } from './manifest.js';
import { openStores } from './open-store.js';

export interface StoredPackage {
  /** Prefix from which it was loaded; `load(url)` loads it again, without network where it is complete. */
  url: string;
  /** Bytes that are stored, and that belong to it. Packages may share files. */
  bytes: number;
  totalBytes: number;
  /** Whether it can be loaded without network. */
  complete: boolean;
  store: 'opfs' | 'cache-api';
}

export interface StorageUse {
  /** Bytes of all stored packages. */
  packageBytes: number;
  /** Bytes that the site uses and may use, as the browser estimates them; absent where it does not tell. */
  usage?: number;
  quota?: number;
  /** Whether the browser has promised not to evict what is stored. */
  persisted: boolean;
}

/** All packages that this site has stored, complete or not. */
export async function listStored(): Promise<StoredPackage[]> {
  const all = (await Promise.all((await openStores()).map((store) => listStore(store).catch(nothing)))).flat();
  // A store that began and then refused may refuse to forget it too.
  const complete = new Set(all.filter((stored) => stored.complete).map(({ url }) => url));
  return all.filter((stored) => stored.complete || !complete.has(stored.url));
}

/**
 * Deletes a stored package; what it shares with another one stays. A model that is loaded goes on, and downloads the
 * package again should its device be lost. Rejects with `invalid-argument` where `url` is no URL.
 */
export async function removeStored(url: string | URL): Promise<void> {
  const location = resolveLocation(url);
  if (location.kind !== 'url') throw new HaikuqError('invalid-argument', 'removeStored: expected a URL');
  for (const store of await openStores()) await removePackage(store, packageKey(location.prefix));
}

/** How much room packages take, and how much there is. */
export async function storageUse(): Promise<StorageUse> {
  let packageBytes = 0;
  for (const store of await openStores()) for (const { bytes } of await store.list().catch(nothing)) packageBytes += bytes;
  const { usage, quota } = (await navigator.storage?.estimate?.().catch(() => undefined)) ?? {};
  const persisted = (await navigator.storage?.persisted?.().catch(() => false)) ?? false;
  return { packageBytes, persisted, ...(usage === undefined ? {} : { usage }), ...(quota === undefined ? {} : { quota }) };
}

/** Of a store that opens and then does not work. */
const nothing = (): never[] => [];

async function listStore(store: BlobStore): Promise<StoredPackage[]> {
  const sizes = new Map((await store.list()).map(({ sha256, bytes }) => [sha256, bytes]));
  return (await listEntries(store)).flatMap((entry) => {
    const [manifest] = manifestsOf(entry);
    if (!manifest) return [];
    const blobs = distinctBlobs(filesInReadingOrder(manifest));
    const bytes = blobs.reduce((sum, file) => sum + Math.min(file.bytes, sizes.get(file.sha256) ?? 0), 0);
    const totalBytes = blobs.reduce((sum, file) => sum + file.bytes, 0);
    return [{ url: entry.url, bytes, totalBytes, complete: bytes === totalBytes, store: store.kind }];
  });
}
