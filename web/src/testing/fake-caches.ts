/** The Cache API in memory, as far as the store uses it. */

export function fakeCaches(quota = Infinity): CacheStorage {
  const entries = new Map<string, Uint8Array<ArrayBuffer>>();
  const url = (request: string | Request) => (typeof request === 'string' ? request : request.url);
  const cache = {
    async put(request: string | Request, response: Response) {
      const bytes = new Uint8Array(await response.arrayBuffer());
      const used = [...entries.values()].reduce((sum, entry) => sum + entry.length, 0);
      if (used + bytes.length > quota) throw new DOMException('full', 'QuotaExceededError');
      entries.set(url(request), bytes);
    },
    async match(request: string | Request) {
      const bytes = entries.get(url(request));
      return bytes && new Response(bytes);
    },
    async delete(request: string | Request) {
      return entries.delete(url(request));
    },
    async keys(request?: string, { ignoreSearch = false } = {}) {
      const matches = (key: string) => request === undefined || key === request || (ignoreSearch && key.split('?')[0] === request);
      return [...entries.keys()].filter(matches).map((key) => new Request(key));
    },
  };
  return { open: async () => cache } as unknown as CacheStorage;
}
