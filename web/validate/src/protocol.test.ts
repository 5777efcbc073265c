import { afterEach, describe, expect, it, vi } from 'vitest';
import { connect, isStale } from './protocol.ts';

afterEach(() => vi.unstubAllGlobals());

function answering(answer: () => Response | Promise<Response>) {
  const fetch = vi.fn<(url: URL, init: RequestInit) => Promise<Response>>(async () => answer());
  vi.stubGlobal('fetch', fetch);
  return fetch;
}

const server = connect('http://127.0.0.1:4173', 'secret');

it('sends the token with every request', async () => {
  const fetch = answering(() => new Response(null, { status: 204 }));
  await server.next();
  await server.hello({ adapter: 'a', userAgent: 'b', package: 'c', numerics: 'fast' });
  await server.rows(3, 8, Float32Array.of(1));
  for (const [, init] of fetch.mock.calls) expect(init.headers).toMatchObject({ 'x-haikuq-token': 'secret' });
  expect(fetch.mock.calls.map(([url]) => url.href)).toEqual([
    'http://127.0.0.1:4173/work/next',
    'http://127.0.0.1:4173/work/hello',
    'http://127.0.0.1:4173/work/rows?id=3&first=8',
  ]);
});

it('takes 204 for no work yet', async () => {
  answering(() => new Response(null, { status: 204 }));
  expect(await server.next()).toBeNull();
});

it('sends token ids as JSON numbers', async () => {
  const fetch = answering(() => new Response(null, { status: 204 }));
  await server.greedy(4, Uint32Array.of(7, 4095));
  expect(fetch.mock.calls[0]?.[1].body).toBe('{"ids":[7,4095]}');
});

describe('a server that refuses', () => {
  it('is quoted', async () => {
    answering(() => new Response('the header x-haikuq-token is missing\n', { status: 403 }));
    await expect(server.job()).rejects.toMatchObject({
      code: 'network',
      message: '/work/job: status 403: the header x-haikuq-token is missing',
      details: { status: 403 },
    });
  });

  it('is told from one that only has other work', async () => {
    answering(() => new Response('job 1 is not at hand', { status: 409 }));
    expect(isStale(await server.finish(1).catch((error: unknown) => error))).toBe(true);
    answering(() => new Response('rows too many', { status: 400 }));
    expect(isStale(await server.finish(1).catch((error: unknown) => error))).toBe(false);
  });

  it('is told from one that is gone', async () => {
    answering(() => Promise.reject(new TypeError('fetch failed')));
    await expect(server.next()).rejects.toMatchObject({ code: 'network', message: '/work/next: haikuq validate does not answer' });
  });
});
