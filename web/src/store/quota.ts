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

export function quotaError(needed: number, available: number | undefined, cause?: unknown): HaikuqError {
  const there = available === undefined ? '' : `, the browser grants ${megabytes(available)}`;
  const message = `the package needs ${megabytes(needed)} more storage${there}; free some, or load with cache: 'none'`;
  const details = available === undefined ? { needed } : { needed, available };
  return new HaikuqError('quota', message, details, { cause });
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
