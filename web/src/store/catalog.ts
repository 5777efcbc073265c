/**
 * Which packages a store holds: a record for each package, with the manifest of the version that is complete and of the
 * one that is being downloaded. Blobs that no record refers to are garbage. The old version is kept until the new one
 * is complete, so that a broken update leaves something to run.
 */

import { withLock } from './locks.js';
import type { BlobStore } from './blobs.js';
import { type Manifest, parseManifest, type PackageFile } from './manifest.js';

export interface CatalogEntry {
  url: string;
  /** Text of the manifest whose files were all stored. */
  current?: string | undefined;
  /** Text of the manifest whose files are being stored. */
  pending?: string | undefined;
}

export async function readEntry(store: BlobStore, url: string): Promise<CatalogEntry | undefined> {
  return parseEntry(await store.readRecord(await recordKey(url)));
}

/**
 * Keeps the blobs of `manifest` from now on, beside those of a version that is complete already. Where it is the server's
 * `newest` and complete, no other one is pending any more; a version that stands in for it leaves the pending one alone.
 */
export async function beginVersion(store: BlobStore, url: string, { text }: Manifest, newest: boolean): Promise<void> {
  await changeEntry(store, url, ({ current, pending }) =>
    current === text ? { url, current, pending: newest ? undefined : pending } : { url, current, pending: text },
  );
}

/**
 * All of `manifest` is stored: blobs of other versions go, if no other package has them, but for those of a version that
 * is being stored, by another tab or by a later load.
 */
export async function completeVersion(store: BlobStore, url: string, { text }: Manifest): Promise<void> {
  await changeEntry(
    store,
    url,
    ({ pending }) => ({ url, current: text, pending: pending === text ? undefined : pending }),
    'collect garbage',
  );
}

/**
 * Gives up the complete version for the one that is being stored, where that makes `bytes` of room; else it stays, and the
 * answer is false. What another version or package shares with it makes none.
 */
export async function dropOldVersion(store: BlobStore, url: string, manifest: Manifest, bytes: number): Promise<boolean> {
  return withLock('catalog', undefined, async () => {
    const others = (await listEntries(store)).filter((entry) => entry.url !== url);
    const entry: CatalogEntry = { url, pending: manifest.text };
    const freed = (await unusedBlobs(store, [...others, entry])).reduce((sum, blob) => sum + blob.bytes, 0);
    if (freed < bytes) return false;
    await store.writeRecord(await recordKey(url), JSON.stringify(entry));
    await collectGarbage(store);
    return true;
  });
}

export async function removePackage(store: BlobStore, url: string): Promise<void> {
  await withLock('catalog', undefined, async () => {
    await store.removeRecord(await recordKey(url));
    await collectGarbage(store);
  });
}

export async function listEntries(store: BlobStore): Promise<CatalogEntry[]> {
  const entries: CatalogEntry[] = [];
  for (const key of await store.listRecords()) {
    const entry = parseEntry(await store.readRecord(key));
    if (entry) entries.push(entry);
  }
  return entries;
}

/** The manifests of an entry that can be read: the complete version first. */
export function manifestsOf(entry: CatalogEntry): Manifest[] {
  return [entry.current, entry.pending].flatMap((text) => {
    try {
      return text === undefined ? [] : [parseManifest(text)];
    } catch {
      return [];
    }
  });
}

/** Files by content: a package may have the same bytes under two names, and two packages the same tokenizer. */
export function distinctBlobs(files: Iterable<PackageFile>): PackageFile[] {
  return [...new Map([...files].map((file) => [file.sha256, file])).values()];
}

async function changeEntry(
  store: BlobStore,
  url: string,
  change: (entry: CatalogEntry) => CatalogEntry,
  then?: 'collect garbage',
): Promise<void> {
  await withLock('catalog', undefined, async () => {
    const key = await recordKey(url);
    const before = await store.readRecord(key);
    const after = JSON.stringify(change(parseEntry(before) ?? { url }));
    if (after !== before) await store.writeRecord(key, after);
    if (then) await collectGarbage(store);
  });
}

/** Under the catalog's lock, so that no tab begins a version meanwhile. */
async function collectGarbage(store: BlobStore): Promise<void> {
  for (const { sha256 } of await unusedBlobs(store, await listEntries(store))) {
    // A blob that another tab has open cannot be removed now; the next collection gets it.
    await store.remove(sha256).catch(() => undefined);
  }
}

/** What is stored and belongs to no version of these entries, neither complete nor pending. */
async function unusedBlobs(store: BlobStore, entries: CatalogEntry[]): Promise<{ sha256: string; bytes: number }[]> {
  const manifests = entries.flatMap(manifestsOf);
  const used = new Set(manifests.flatMap(({ shards, files }) => [...shards, ...files].map((file) => file.sha256)));
  return (await store.list()).filter(({ sha256 }) => !used.has(sha256));
}

/** A damaged record counts as none: what it referred to is downloaded again. */
function parseEntry(text: string | undefined): CatalogEntry | undefined {
  try {
    const entry = text === undefined ? undefined : (JSON.parse(text) as Partial<CatalogEntry> | null);
    return typeof entry?.url === 'string' ? (entry as CatalogEntry) : undefined;
  } catch {
    return undefined;
  }
}

async function recordKey(url: string): Promise<string> {
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(url));
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}
