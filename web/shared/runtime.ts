/** The npm package, or with `?fake` on the development server a stand-in that needs no GPU and no package. */

import * as haikuq from 'haikuq';

export type Runtime = Pick<typeof haikuq, 'load' | 'listStored' | 'removeStored' | 'storageUse'>;

export async function openRuntime(): Promise<Runtime> {
  if (import.meta.env.DEV && new URLSearchParams(location.search).has('fake')) {
    return (await import('./dev/fake-runtime.ts')).fakeRuntime(new URLSearchParams(location.search));
  }
  return haikuq;
}
