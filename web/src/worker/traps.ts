/**
 * Traps that nobody awaits. A WebAssembly future that traps does so in a microtask or in a promise's callback of its own:
 * the promise that was handed out for it stays pending for ever, and the trap shows as an uncaught error or rejection.
 */

import { isTrap } from '../failures.js';

/** Calls the listener for each trap until the returned function is called. */
export type OnTrap = (listener: (trap: unknown) => void) => () => void;

/** Traps of a worker are all the engine's; on a page, `isOurs` tells them from those of other WebAssembly modules. */
export function watchTraps(scope: EventTarget, isOurs: (trap: Error) => boolean = () => true): OnTrap {
  return (listener) => {
    function onUncaught(event: Event): void {
      const { error, reason } = event as Partial<ErrorEvent & PromiseRejectionEvent>;
      const trap: unknown = error ?? reason;
      if (!isTrap(trap) || !isOurs(trap)) return;
      // The call that it belongs to fails with it.
      event.preventDefault();
      listener(trap);
    }
    const events = ['error', 'unhandledrejection'];
    for (const event of events) scope.addEventListener(event, onUncaught);
    return () => {
      for (const event of events) scope.removeEventListener(event, onUncaught);
    };
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
