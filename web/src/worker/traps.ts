/**
 * Traps that nobody awaits. A WebAssembly future that traps does so in a microtask of its own: the promise that was
 * handed out for it stays pending for ever, and the trap shows as an uncaught error alone.
 */

import { isTrap } from '../failures.js';

/** Calls the listener for each trap until the returned function is called. */
export type OnTrap = (listener: (trap: unknown) => void) => () => void;

/** Traps of a worker are all the engine's; on a page, `isOurs` tells them from those of other WebAssembly modules. */
export function watchTraps(scope: EventTarget, isOurs: (trap: Error) => boolean = () => true): OnTrap {
  return (listener) => {
    function onError(event: Event): void {
      const { error } = event as ErrorEvent;
      if (!isTrap(error) || !isOurs(error as Error)) return;
      // The call that it belongs to fails with it.
      event.preventDefault();
      listener(error);
    }
    scope.addEventListener('error', onError);
    return () => scope.removeEventListener('error', onError);
  };
}

/** Settles as `work` does, or rejects with the trap because of which it never will. */
export async function orTrap<T>(work: Promise<T>, onTrap: OnTrap): Promise<T> {
  let stop = () => {};
  const trap = new Promise<never>((_, reject) => (stop = onTrap(reject)));
  try {
    return await Promise.race([work, trap]);
  } finally {
    stop();
  }
}
