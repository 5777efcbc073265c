/** Exclusive Web Locks between "tabs" of one process. */

export function fakeLocks(): LockManager {
  const tails = new Map<string, Promise<void>>();
  return {
    async request<T>(name: string, { signal }: { signal?: AbortSignal }, work: () => Promise<T>): Promise<T> {
      const before = tails.get(name) ?? Promise.resolve();
      let release!: () => void;
      const held = new Promise<void>((resolve) => (release = resolve));
      tails.set(
        name,
        before.then(() => held),
      );
      const stopped = new Promise<never>((_, reject) => {
        signal?.addEventListener('abort', () => reject(new DOMException('request', 'AbortError')), { once: true });
      });
      stopped.catch(() => undefined);
      try {
        await Promise.race([before, stopped]);
        return await work();
      } finally {
        release();
      }
    },
  } as unknown as LockManager;
}
