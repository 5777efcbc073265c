import { afterEach, expect, it, vi } from 'vitest';
import { answerRequest } from '../page-fetch.js';
import { someBytes } from '../testing/fake-package.js';
import type { LoadOptions } from '../types.js';
import type { Emit } from '../worker/protocol.js';
import { loadRequest } from '../testing/fake-engine.js';
import { networkOf } from './page-requests.js';

const url = 'https://example.org/p/a.bin';
const bytes = someBytes(5300, 1);

/** Requests of a network that the browser's `fetch` would answer. */
function network(options: Pick<LoadOptions, 'headers' | 'fetch'> & { credentials?: RequestCredentials } = {}) {
  const asked: { url: string; headers: Record<string, string>; init: RequestInit }[] = [];
  const own = {
    async fetch(url: string, init: RequestInit) {
      asked.push({ url, headers: Object.fromEntries(new Headers(init.headers)), init });
      return new Response(bytes);
    },
    probe: async () => 'withheld' as const,
    backoffMs: 1,
    stallMs: 1000,
    attempts: 1,
  };
  // As between a worker and its page.
  const { port1, port2 } = new MessageChannel();
  ports.push(port1);
  port1.onmessage = ({ data }) => answerRequest(data as Parameters<typeof answerRequest>[0], options);
  const emit: Emit = (event, transfer = []) => port2.postMessage(event, transfer);
  const { headers, fetch, credentials } = options;
  const request = loadRequest('https://example.org/p/', {
    ...(headers && typeof headers !== 'function' ? { headers: [...new Headers(headers)] } : {}),
    ...(fetch ? { asks: 'fetch' as const } : typeof headers === 'function' ? { asks: 'headers' as const } : {}),
    ...(credentials ? { credentials } : {}),
  });
  return { asked, own, network: networkOf(own, request, emit) };
}
const ports: MessagePort[] = [];
afterEach(() => ports.splice(0).forEach((port) => port.close()));

it('changes nothing where nothing is wanted', () => {
  const { own, network: made } = network();
  expect(made).toBe(own);
});

it('sends headers and credentials, beside its own', async () => {
  const { asked, network: made } = network({ headers: { Authorization: 'Bearer t' }, credentials: 'include' });
  await made.fetch(url, { cache: 'no-store', headers: { Range: 'bytes=5-' } });
  expect(asked).toMatchObject([
    { url, headers: { authorization: 'Bearer t', range: 'bytes=5-' }, init: { credentials: 'include', cache: 'no-store' } },
  ]);
});

it('asks a function for headers before each request', async () => {
  let token = 0;
  const { asked, network: made } = network({ headers: async () => ({ Authorization: `Bearer ${++token}` }) });
  await made.fetch(url, {});
  await made.fetch(url, { headers: { Range: 'bytes=5-' } });
  expect(asked.map(({ headers }) => headers)).toEqual([{ authorization: 'Bearer 1' }, { authorization: 'Bearer 2', range: 'bytes=5-' }]);
});

it('tells what the function threw', async () => {
  const { network: made } = network({
    headers() {
      throw new Error('no token any more');
    },
  });
  await expect(made.fetch(url, {})).rejects.toThrow('no token any more');
});

it('has the page fetch, and brings the answer over piece by piece', async () => {
  const fetch = vi.fn(async () => {
    const pieces = [bytes.slice(0, 1000), bytes.slice(1000)];
    const body = new ReadableStream({
      pull(controller) {
        const piece = pieces.shift();
        if (piece) controller.enqueue(piece);
        else controller.close();
      },
    });
    const response = new Response(body, { status: 206, statusText: 'Partial Content', headers: { 'content-range': 'bytes 0-5299/5300' } });
    return Object.defineProperties(response, { url: { value: 'https://elsewhere.example/a' }, redirected: { value: true } });
  });
  const { asked, network: made } = network({ fetch, headers: { Authorization: 'Bearer t' } });
  const response = await made.fetch(url, { cache: 'no-cache', headers: { Range: 'bytes=0-' } });
  const { status, statusText, redirected, headers } = response;
  expect({ status, statusText, redirected, url: response.url, range: headers.get('content-range') }).toEqual({
    status: 206,
    statusText: 'Partial Content',
    redirected: true,
    url: 'https://elsewhere.example/a',
    range: 'bytes 0-5299/5300',
  });
  expect(new Uint8Array(await response.arrayBuffer())).toEqual(bytes);
  expect(asked).toEqual([]);
  const [told, init] = fetch.mock.calls[0] as unknown as [string, RequestInit];
  expect(told).toBe(url);
  expect(init).toMatchObject({ cache: 'no-cache', signal: expect.any(AbortSignal) as AbortSignal });
  expect(Object.fromEntries(new Headers(init.headers))).toEqual({ authorization: 'Bearer t', range: 'bytes=0-' });
  // The browser's own request says nothing of what the caller's function does.
  expect(made.probe).toBeUndefined();
});

it('leaves the page its memory', async () => {
  const mine = bytes.slice();
  const { network: made } = network({
    fetch: async () => new Response(new ReadableStream({ start: (c) => (c.enqueue(mine), c.close()) })),
  });
  expect(new Uint8Array(await (await made.fetch(url, {})).arrayBuffer())).toEqual(bytes);
  expect(mine).toEqual(bytes);
});

it('tells the page when the answer is not wanted any more, before and after it came', async () => {
  const signals: AbortSignal[] = [];
  let cancelled = false;
  const { network: made } = network({
    async fetch(_, { signal }) {
      signals.push(signal as AbortSignal);
      if (signals.length === 1) return new Promise(() => undefined);
      return new Response(new ReadableStream({ pull: () => new Promise(() => undefined), cancel: () => void (cancelled = true) }));
    },
  });
  const first = new AbortController();
  const waiting = made.fetch(url, { signal: first.signal });
  await vi.waitUntil(() => signals.length === 1);
  first.abort(new Error('enough'));
  await expect(waiting).rejects.toThrow('enough');
  await vi.waitUntil(() => signals[0]?.aborted);

  const second = new AbortController();
  const response = await made.fetch(url, { signal: second.signal });
  const reading = response.arrayBuffer();
  second.abort(new Error('enough'));
  await expect(reading).rejects.toThrow('enough');
  await vi.waitUntil(() => cancelled);
});

it('fails as the page’s own function fails, at once or midway', async () => {
  const { network: refused } = network({ fetch: () => Promise.reject(new TypeError('Failed to fetch')) });
  await expect(refused.fetch(url, {})).rejects.toThrow('Failed to fetch');
  const { network: broken } = network({
    fetch: async () => new Response(new ReadableStream({ pull: (c) => c.error(new TypeError('network error')) })),
  });
  await expect((await broken.fetch(url, {})).arrayBuffer()).rejects.toThrow('network error');
});
