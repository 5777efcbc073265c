/**
 * Whom a page takes packages from: its own origin, and those that it was built for. The worker that fetches packages
 * obeys the policy that the host sends with its script, not the page's `<meta>`, so on a host that sends none this check
 * is what keeps a link from making the page talk to others.
 */

import { HaikuqError, type PackageLocation } from 'haikuq';

declare global {
  interface ImportMetaEnv {
    /** Origins with spaces between them; the build puts them here, see `vite.ts`. */
    readonly HAIKUQ_CONNECT?: string;
  }
}

const builtFor = (): string[] => (import.meta.env.HAIKUQ_CONNECT ?? '').split(' ');

/** Whether `url` is of the origin of `page`. Both are absolute. */
export const sameOrigin = (url: string | URL, page: string): boolean => new URL(url).origin === new URL(page).origin;

/** Folders and files are on this device and always allowed. Throws `invalid-argument`, and says how to allow the origin. */
export function requireAllowedOrigin(location: PackageLocation, page: string): void {
  if (typeof location !== 'string' && !(location instanceof URL)) return;
  const { origin } = new URL(location, page);
  if (origin === new URL(page).origin || builtFor().includes(origin)) return;
  throw new HaikuqError(
    'invalid-argument',
    `this page takes no packages from ${origin}: it was not built for that. Build the pages with HAIKUQ_CONNECT=${origin} ` +
      `to allow it, or download the package and choose its folder`,
  );
}
