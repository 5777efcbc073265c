/** Web Locks: one tab at a time downloads a blob or changes the catalog. */

import { aborted, throwIfAborted } from '../failures.js';

/** Runs `work` while holding the lock. Locks end with their tab, so none outlives a crash. */
export async function withLock<T>(name: string, signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
  // Absent outside secure contexts, where there is no storage to protect either.
  const locks = globalThis.navigator?.locks;
  if (!locks) return work();
  throwIfAborted(signal, 'waiting for another tab');
  let held = false;
  try {
    return await locks.request(`haikuq:${name}`, signal ? { signal } : {}, () => {
      held = true;
      return work();
    });
  } catch (error) {
    if (!held && signal?.aborted) throw aborted('waiting for another tab');
    throw error;
  }
}
