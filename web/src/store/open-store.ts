/** Which store a load uses. */

import { HaikuqError } from '../errors.js';
import type { LoadOptions } from '../types.js';
import type { BlobStore } from './blobs.js';
import { openCacheApi } from './cache-api.js';
import { openOpfs } from './opfs.js';

/** The best store of this browser but for the `refused`, or the one asked for; undefined for none. Throws `invalid-argument`. */
export async function openStore(
  preference: NonNullable<LoadOptions['cache']>,
  refused: ReadonlySet<BlobStore['kind']> = new Set(),
): Promise<BlobStore | undefined> {
  switch (preference) {
    case 'none':
      return undefined;
    case 'auto':
      return (!refused.has('opfs') && (await openOpfs())) || (refused.has('cache-api') ? undefined : await openCacheApi());
    case 'opfs':
      return (await openOpfs()) ?? unavailable(preference);
    case 'cache-api':
      return (await openCacheApi()) ?? unavailable(preference);
  }
}

/** Every store that this browser has, for looking after what any of them holds. */
export async function openStores(): Promise<BlobStore[]> {
  const stores = await Promise.all([openOpfs('look after'), openCacheApi()]);
  return stores.filter((store) => store !== undefined);
}

function unavailable(preference: string): never {
  throw new HaikuqError('invalid-argument', `cache: ${preference} is not available here (a private window, or not https?)`);
}
