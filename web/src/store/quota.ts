/** Room in the browser's storage. */

import { HaikuqError } from '../errors.js';

/** Bytes that this site may still store; undefined where the browser does not tell. */
export async function availableBytes(): Promise<number | undefined> {
  try {
    const { quota, usage } = await navigator.storage.estimate();
    return quota === undefined ? undefined : Math.max(0, quota - (usage ?? 0));
  } catch {
    return undefined;
  }
}

/**
 * `available` bytes that are enough count as unknown: storage is full all the same. Browsers estimate roughly, some on
 * purpose, so that sites cannot tell users apart by their disks.
 */
export function quotaError(needed: number, available: number | undefined, cause?: unknown): HaikuqError {
  const known = available !== undefined && available < needed;
  const there = known ? `, the browser grants ${megabytes(available)}` : ', which the browser refuses';
  const message = `the package needs ${megabytes(needed)} more storage${there}; free some, or load with cache: 'none'`;
  return new HaikuqError('quota', message, known ? { needed, available } : { needed }, { cause });
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
