import { describe, expect, it, vi } from 'vitest';
import { fakeServer, type FakeServer } from '../testing/fake-server.js';
import { someBytes } from '../testing/fake-package.js';
import { fetchBytes, fetchText } from './fetch.js';

const bytes = someBytes(5300, 1);
const file = { name: 'a.bin', bytes: bytes.length, sha256: 'f'.repeat(64) };
const url = 'https://example.org/p/a.bin';

async function download(server: FakeServer, from = 0, signal?: AbortSignal) {
  const got = new Uint8Array(bytes.length);
  got.set(bytes.subarray(0, from));
  const starts: number[] = [];
  for await (const { at, bytes: piece } of fetchBytes(server.network, url, file, from, { signal })) {
    got.set(piece, at);
    starts.push(at);
  }
  return { got, starts };
}
const ranges = (server: FakeServer) => server.requests.map(({ range }) => range);

describe('fetchBytes', () => {
  it('goes on with a Range request where the connection broke', async () => {
    const server = fakeServer({ 'a.bin': bytes });
    server.trouble.set('a.bin', [{ breakAfter: 2500 }, { breakAfter: 700 }]);
    expect((await download(server)).got).toEqual(bytes);
    expect(ranges(server)).toEqual([null, 'bytes=2500-', 'bytes=3200-']);
    expect(server.sent).toBe(bytes.length);
  });

  it('skips what it knows where the server ignores ranges', async () => {
    const server = fakeServer({ 'a.bin': bytes });
    server.ignoreRanges = true;
    server.trouble.set('a.bin', [{ breakAfter: 2500 }]);
    const { got, starts } = await download(server);
    expect(got).toEqual(bytes);
    expect(starts.filter((at) => at === 0)).toHaveLength(1);
  });

  it('works where Content-Range is hidden from other origins', async () => {
    const server = fakeServer({ 'a.bin': bytes });
    server.hideContentRange = true;
    expect((await download(server, 4000)).got).toEqual(bytes);
    expect(ranges(server)).toEqual(['bytes=4000-']);
  });

  it('begins again where the ETag changed meanwhile', async () => {
    const server = fakeServer({ 'a.bin': someBytes(5300, 2) });
    server.etags.set('a.bin', '"old"');
    server.trouble.set('a.bin', [{ breakAfter: 2500 }]);
    const fetchIt = server.network.fetch;
    server.network.fetch = (...args) => {
      if (server.requests.length === 1) {
        server.files.set('a.bin', bytes);
        server.etags.set('a.bin', '"new"');
      }
      return fetchIt(...args);
    };
    const { got, starts } = await download(server);
    expect(got).toEqual(bytes);
    expect(starts.filter((at) => at === 0)).toHaveLength(2);
    expect(ranges(server)).toEqual([null, 'bytes=2500-', null]);
  });

  it('takes a weak ETag for the strong one', async () => {
    const server = fakeServer({ 'a.bin': bytes });
    server.etags.set('a.bin', 'W/"x"');
    server.trouble.set('a.bin', [{ breakAfter: 2500 }]);
    const fetchIt = server.network.fetch;
    server.network.fetch = (...args) => {
      if (server.requests.length === 1) server.etags.set('a.bin', '"x"');
      return fetchIt(...args);
    };
    expect((await download(server)).starts.filter((at) => at === 0)).toHaveLength(1);
  });

  it('begins again once where the server has nothing from there on (416)', async () => {
    const server = fakeServer({ 'a.bin': bytes });
    server.trouble.set('a.bin', [{ status: 416 }]);
    expect((await download(server, 3000)).got).toEqual(bytes);
    expect(ranges(server)).toEqual(['bytes=3000-', null]);
  });

  it('calls a file that is too short or too long an integrity error, with the numbers', async () => {
    const short = fakeServer({ 'a.bin': bytes.subarray(0, 4000) });
    await expect(download(short)).rejects.toMatchObject({ code: 'integrity', details: { file: 'a.bin', needed: 5300, available: 4000 } });
    const long = fakeServer({ 'a.bin': someBytes(9000, 3) });
    await expect(download(long)).rejects.toMatchObject({ code: 'integrity', details: { file: 'a.bin', needed: 5300 } });
    expect(long.sent).toBeLessThan(7000);
  });

  describe('where a part is not what was asked for', () => {
    const part = (begin: number, end: number, total: number, headers: Record<string, string> = {}) =>
      new Response(someBytes(end - begin, 9), {
        status: 206,
        headers: { 'content-range': `bytes ${begin}-${end - 1}/${total}`, ...headers },
      });

    it.each([
      ['is of a compressed form, as its encoding says', part(2500, 5300, 5300, { 'content-encoding': 'gzip' })],
      ['is of a compressed form, as its length says', part(2500, 4000, 4000)],
      ['is another part', part(3000, 5300, 5300)],
      ['ends too early', part(2500, 5000, 5300)],
      ['is longer than the rest', new Response(someBytes(5000, 9), { status: 206 })],
    ])('as it %s, drops what is known and takes the whole', async (_, answer) => {
      const server = fakeServer({ 'a.bin': bytes });
      server.trouble.set('a.bin', [{ breakAfter: 2500 }]);
      server.answers.set('a.bin', (range) => (range ? answer : undefined));
      const { got, starts } = await download(server);
      expect(got).toEqual(bytes);
      expect(starts.filter((at) => at === 0)).toHaveLength(2);
      expect(ranges(server)).toEqual([null, 'bytes=2500-', null]);
    });

    it('as it cannot be decoded, takes the whole, also in a later load', async () => {
      const server = fakeServer({ 'a.bin': bytes });
      const broken = () =>
        new Response(new ReadableStream({ start: (controller) => controller.error(new TypeError('decoding failed')) }), { status: 206 });
      server.answers.set('a.bin', (range) => (range ? broken() : undefined));
      expect((await download(server, 2500)).got).toEqual(bytes);
      expect(ranges(server)).toEqual(['bytes=2500-', 'bytes=2500-', null]);
    });

    it('as it cannot even be fetched though the host is there, takes the whole', async () => {
      const server = fakeServer({ 'a.bin': bytes });
      const { fetch } = server.network;
      server.network.fetch = async (url, init) => {
        const response = await fetch(url, init);
        if (new Headers(init.headers).has('range')) throw new TypeError('Failed to fetch');
        return response;
      };
      server.network.probe = async () => 'withheld';
      expect((await download(server, 2500)).got).toEqual(bytes);
      expect(ranges(server)).toEqual(['bytes=2500-', 'bytes=2500-', null]);
    });

    it('says so where only a part is sent though all was asked for', async () => {
      const server = fakeServer({ 'a.bin': bytes });
      server.answers.set('a.bin', () => part(0, 4000, 5300));
      await expect(download(server)).rejects.toMatchObject({
        code: 'network',
        message: expect.stringContaining('bytes 0-3999/5300') as string,
        details: { status: 206 },
      });
      expect(server.requests).toHaveLength(1);
    });
  });

  it('asks for no part of a file whose parts were wrong', async () => {
    const server = fakeServer({ 'a.bin': bytes });
    server.trouble.set('a.bin', [{ breakAfter: 2500 }]);
    for await (const _ of fetchBytes(server.network, url, file, 0, { whole: true }));
    expect(ranges(server)).toEqual([null, null]);
  });

  describe('a page in place of a file', () => {
    const page = (from?: string) => {
      const response = new Response('<!doctype html><title>app</title>', { headers: { 'content-type': 'text/html; charset=utf-8' } });
      return from ? Object.defineProperties(response, { redirected: { value: true }, url: { value: from } }) : response;
    };

    it('is named at once, with its address', async () => {
      const server = fakeServer();
      server.answers.set('a.bin', () => page());
      const message = expect.stringMatching(
        /a\.bin: the server sent a page of HTML, not the file: https:\/\/example\.org\/p\/a\.bin/,
      ) as string;
      await expect(download(server)).rejects.toMatchObject({ code: 'network', message, details: { file: 'a.bin', status: 200 } });
      expect(server.requests).toHaveLength(1);
    });

    it('is named with where it came from after a redirect, without the query', async () => {
      const server = fakeServer();
      server.answers.set('a.bin', () => page('https://login.example.net/sign-in?for=secret'));
      const message = expect.stringMatching(/after a redirect to https:\/\/login\.example\.net\/sign-in\./) as string;
      await expect(download(server)).rejects.toMatchObject({ message });
    });

    it('is the file where it has its length, whatever the server calls it', async () => {
      const server = fakeServer();
      server.answers.set('a.bin', () => new Response(bytes, { headers: { 'content-type': 'text/html', 'content-length': '5300' } }));
      expect((await download(server)).got).toEqual(bytes);
    });
  });

  it('names the query where a host refuses it', async () => {
    const server = fakeServer({ 'a.bin': bytes });
    server.trouble.set('a.bin', [{ status: 403 }]);
    const asked = fetchBytes(server.network, `${url}?sha256=ff`, file, 0).next();
    await expect(asked).rejects.toMatchObject({ message: expect.stringContaining('sha256Query: false') as string });
  });

  it('takes a break midway for no CORS', async () => {
    const server = fakeServer({ 'a.bin': bytes });
    server.trouble.set('a.bin', [{ breakAfter: 2500 }]);
    server.network.probe = async () => 'withheld';
    expect((await download(server)).got).toEqual(bytes);
  });

  it('names CORS where the browser keeps an answer from the page, at once', async () => {
    const server = fakeServer({ 'a.bin': bytes });
    server.down = true;
    server.network.probe = async () => 'withheld';
    await expect(download(server)).rejects.toMatchObject({
      code: 'network',
      message: expect.stringContaining('Access-Control-Allow-Origin') as string,
    });
    expect(server.requests).toHaveLength(1);
    server.network.probe = async () => undefined;
    await expect(download(server)).rejects.toMatchObject({ message: expect.stringMatching(/4 tries: Failed to fetch$/) as string });
    vi.stubGlobal('location', new URL('https://page.example/'));
    vi.stubGlobal('origin', 'https://page.example');
    await expect(download(server)).rejects.toMatchObject({
      message: expect.stringMatching(/4 tries: .*does that host send Access-Control-Allow-Origin/) as string,
    });
    vi.unstubAllGlobals();
  });

  it('does not repeat a request that the server refuses', async () => {
    const server = fakeServer();
    await expect(download(server)).rejects.toMatchObject({ code: 'network', details: { file: 'a.bin', status: 404 } });
    expect(server.requests).toHaveLength(1);
  });

  it('comes back to a server that is busy, and gives up in the end', async () => {
    const server = fakeServer({ 'a.bin': bytes });
    server.trouble.set('a.bin', [{ status: 503 }, { status: 429, retryAfter: '0.01' }]);
    expect((await download(server)).got).toEqual(bytes);
    server.trouble.set(
      'a.bin',
      Array.from({ length: 9 }, () => ({ status: 503 })),
    );
    await expect(download(server)).rejects.toMatchObject({ code: 'network', details: { status: 503 } });
    server.down = true;
    await expect(download(server)).rejects.toMatchObject({ code: 'network', details: { file: 'a.bin' } });
  });

  it('gives every byte new patience', async () => {
    const server = fakeServer({ 'a.bin': bytes });
    // More breaks than attempts in a row are allowed.
    server.trouble.set(
      'a.bin',
      Array.from({ length: 5 }, () => ({ breakAfter: 1000 })),
    );
    expect((await download(server)).got).toEqual(bytes);
  });

  it('gives up a silent connection for another one', async () => {
    const server = fakeServer({ 'a.bin': bytes });
    server.network.stallMs = 50;
    server.trouble.set('a.bin', [{ stallAfter: 3000 }]);
    expect((await download(server)).got).toEqual(bytes);
    expect(ranges(server)).toEqual([null, 'bytes=3000-']);
  });

  it('ends with `aborted`, and closes the connection', async () => {
    const server = fakeServer({ 'a.bin': bytes });
    server.trouble.set('a.bin', [{ stallAfter: 1000 }]);
    const controller = new AbortController();
    const downloading = download(server, 0, controller.signal);
    setTimeout(() => controller.abort(), 20);
    await expect(downloading).rejects.toMatchObject({ code: 'aborted' });
    expect(server.inFlight).toBe(0);
  });

  it('closes the connection when nobody reads on', async () => {
    const server = fakeServer({ 'a.bin': bytes });
    for await (const _ of fetchBytes(server.network, url, file, 0)) break;
    expect(server.inFlight).toBe(0);
  });
});

describe('fetchText', () => {
  const options = { limit: 100, timeoutMs: 1000, attempts: 2 };

  it('asks past the HTTP cache and tries again', async () => {
    const server = fakeServer({ 'a.json': new TextEncoder().encode('{"ö":1}') });
    server.trouble.set('a.json', [{ status: 500 }]);
    expect(await fetchText(server.network, 'https://example.org/a.json', 'a.json', options)).toBe('{"ö":1}');
    expect(server.requests.map(({ cache }) => cache)).toEqual(['no-cache', 'no-cache']);
  });

  it('names a page, whether the server says that it is one or not', async () => {
    const html = (headers: Record<string, string>) => () => new Response('  <!doctype html><title>Log in</title>', { headers });
    const server = fakeServer();
    for (const [headers, code] of [
      [{ 'content-type': 'text/html' }, 'network'],
      [{ 'content-type': 'text/plain' }, 'invalid-package'],
    ] as const) {
      server.answers.set('a.json', html(headers));
      const message = expect.stringContaining('a page of HTML, not the file: https://example.org/a.json') as string;
      await expect(fetchText(server.network, 'https://example.org/a.json', 'a.json', options)).rejects.toMatchObject({ code, message });
    }
    expect(server.requests).toHaveLength(2);
  });

  it('refuses what is too large and what is no text', async () => {
    const server = fakeServer({ 'a.json': someBytes(101, 1), 'b.json': Uint8Array.of(0xff) });
    await expect(fetchText(server.network, 'https://example.org/a.json', 'a.json', options)).rejects.toMatchObject({ code: 'integrity' });
    await expect(fetchText(server.network, 'https://example.org/b.json', 'b.json', options)).rejects.toMatchObject({
      code: 'invalid-package',
    });
  });
});
