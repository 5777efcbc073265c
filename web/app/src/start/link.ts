/** Links that name a package: `?package=packages/haiku-7m-q4/`. */

import { failureOf, type Failure } from '../../../shared/advice.ts';
import { requireAllowedOrigin, sameOrigin } from '../../../shared/origins.ts';
import { packageUrl } from '../../../shared/packages.ts';
import { choiceOfUrl, type Choice } from './choice.ts';

export type Link =
  | { to: 'open'; choice: Choice }
  /** Of another origin: a link's author does not decide that this page talks to it. */
  | { to: 'ask'; address: string }
  | { to: 'refuse'; failure: Failure };

/** What to do about the package that the address of the page names; `null` where it names none. */
export function linkedPackage(page: string): Link | null {
  const linked = new URL(page).searchParams.get('package');
  if (linked === null) return null;
  try {
    const address = packageUrl(linked, page);
    requireAllowedOrigin(address, page);
    return sameOrigin(address, page) ? { to: 'open', choice: choiceOfUrl(address) } : { to: 'ask', address };
  } catch (error) {
    return { to: 'refuse', failure: failureOf(error) };
  }
}
