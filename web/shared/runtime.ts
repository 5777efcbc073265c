/** The npm package, or with `?fake` on the development server a stand-in that needs no GPU and no package. */

import { listStored, load, removeStored, storageUse } from 'haikuq';
import { requireAllowedOrigin } from './origins.ts';

export interface Runtime {
  /** Refuses packages of origins that the page was not built for, with `invalid-argument` and without a request. */
  load: typeof load;
  listStored: typeof listStored;
  removeStored: typeof removeStored;
  storageUse: typeof storageUse;
}

export async function openRuntime(): Promise<Runtime> {
  if (import.meta.env.DEV && new URLSearchParams(location.search).has('fake')) {
    return (await import('./dev/fake-runtime.ts')).fakeRuntime(new URLSearchParams(location.search));
  }
  return {
    async load(source, options) {
      requireAllowedOrigin(source, document.baseURI);
      return load(source, options);
    },
    listStored,
    removeStored,
    storageUse,
  };
}
