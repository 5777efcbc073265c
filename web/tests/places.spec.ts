/** Where the library, the page and the package may lie: other origins, strict policies, frames without storage. */

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { FaultyServer } from './support/faulty-server.ts';
import type { Server } from './support/haikuq.ts';
import { whole } from './support/packages.ts';
import { download, expect, load, openLab, test } from './support/test.ts';

type Headers = Record<string, string>;

/** What the server answers, with these headers in place of its own ones of the same names. */
const passing =
  (server: Server, headers: Headers) =>
  async ({ url = '/' }: IncomingMessage, response: ServerResponse): Promise<void> => {
    const answer = await fetch(new URL(url, server.url));
    const kept = [...answer.headers].filter(
      ([name]) =>
        !/^(access-control-.*|content-security-policy|content-encoding|content-length|cross-origin-.*|x-frame-options)$/.test(name),
    );
    response.writeHead(answer.status, { ...Object.fromEntries(kept), ...headers }).end(Buffer.from(await answer.arrayBuffer()));
  };

const ANY_ORIGIN = { 'access-control-allow-origin': '*', 'cross-origin-resource-policy': 'cross-origin' };

/** The tests' page of `server` with the library of another origin; pages of `server` have a policy that forbids that. */
async function openWithLibraryOf(
  elsewhere: FaultyServer,
  server: Server,
  newContext: () => Promise<import('@playwright/test').BrowserContext>,
) {
  const page = await openLab(await newContext(), server);
  const warnings: string[] = [];
  page.on('console', (message) => message.type() === 'warning' && warnings.push(message.text()));
  await page.evaluate(async (origin) => {
    const script = new URL(document.querySelector<HTMLScriptElement>('script[type=module]')!.src);
    await import(new URL(script.pathname, origin).href);
  }, elsewhere.url);
  return { page, warnings };
}

test('the library of another origin runs in a worker', async ({ browser, server, faulty }) => {
  faulty.answer.set('/tests/', passing(server, ANY_ORIGIN));
  const { page, warnings } = await openWithLibraryOf(faulty, server, () => browser.newContext({ bypassCSP: true }));
  const workers: string[] = [];
  page.on('worker', (worker) => workers.push(worker.url()));
  expect((await download(page, whole)).error).toBeUndefined();
  expect(workers[0]).toMatch(/^blob:/);
  expect(warnings).toEqual([]);
  await page.context().close();
});

test('the library of another origin goes on without a worker where its script cannot be had, and says so', async ({
  browser,
  server,
  faulty,
}) => {
  const pass = passing(server, ANY_ORIGIN);
  faulty.answer.set('/tests/', (request, response) => {
    if (request.url?.includes('/worker-')) response.writeHead(404).end();
    else void pass(request, response);
  });
  const { page, warnings } = await openWithLibraryOf(faulty, server, () => browser.newContext({ bypassCSP: true }));
  expect((await download(page, whole)).error).toBeUndefined();
  expect(warnings.join('\n')).toContain('no worker with the script of another origin');
  await page.context().close();
});

test('a page that asks for trusted types allows one policy', async ({ browser, server, faulty }) => {
  const policy = (names: string) =>
    `default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; require-trusted-types-for 'script'; trusted-types ${names}`;
  faulty.answer.set('/tests/', passing(server, { 'content-security-policy': policy('haikuq') }));
  const allowed = await openLab(await browser.newContext(), faulty);
  expect((await download(allowed, whole)).error).toBeUndefined();
  await allowed.context().close();

  faulty.answer.set('/tests/', passing(server, { 'content-security-policy': policy('other') }));
  const forbidden = await openLab(await browser.newContext(), faulty);
  expect((await load(forbidden, whole)).error).toMatchObject({
    code: 'internal',
    message: expect.stringContaining('trusted-types haikuq'),
  });
  await forbidden.context().close();
});

test('a sandboxed frame loads without storage', async ({ browser, server, faulty }) => {
  for (const path of ['/tests/', '/packages/']) faulty.answer.set(path, passing(server, ANY_ORIGIN));
  faulty.answer.set('/frame', (_, response) =>
    response.setHeader('content-type', 'text/html').end('<iframe sandbox="allow-scripts" src="/tests/"></iframe>'),
  );
  const page = await (await browser.newContext()).newPage();
  await page.goto(`${faulty.url}frame`);
  const frame = page.frames().at(-1)!;
  await frame.waitForFunction(() => 'lab' in window);
  expect(await frame.evaluate(() => [origin, 'model' in window])).toEqual(['null', false]);
  const { error, progress } = await frame.evaluate((url) => window.lab.download(url), `/packages/${whole.name}/`);
  expect(error).toBeUndefined();
  expect(progress.at(-1)?.downloadedBytes).toBeGreaterThan(0);
  expect(await frame.evaluate(() => window.haikuq.listStored())).toEqual([]);
  await page.context().close();
});

test('files are fetched as the caller wants them, from a worker too', async ({ faulty, faultyLab: page }) => {
  const seen: (string | undefined)[] = [];
  faulty.fault = ({ path }) => (path.startsWith('/packages/') ? void seen.push(path) : undefined);
  const { error, urls } = await page.evaluate(async (url) => {
    const urls: string[] = [];
    const controller = new AbortController();
    try {
      await window.haikuq.load(url, {
        signal: controller.signal,
        sha256Query: false,
        headers: async () => ({ 'X-Token': String(urls.length) }),
        fetch(asked, init) {
          urls.push(`${new Headers(init.headers).get('x-token')} ${new URL(asked).search}`);
          return fetch(asked, init);
        },
        onProgress: ({ phase, downloadedBytes, downloadTotalBytes }) =>
          phase !== 'manifest' && downloadedBytes === downloadTotalBytes && controller.abort(),
      });
    } catch (error) {
      if (!controller.signal.aborted) return { error: window.lab.failureOf(error), urls };
    }
    return { urls };
  }, `/packages/${whole.name}/`);
  expect(error).toBeUndefined();
  expect(urls.length).toBeGreaterThan(1);
  expect(urls).toEqual(urls.map((_, i) => `${i} `));
  expect(seen).toHaveLength(urls.length);
});

test('another origin that does not allow the page is named, at once', async ({ browser, server, faulty }) => {
  const page = await openLab(await browser.newContext({ bypassCSP: true }), server);
  const { 'access-control-allow-origin': _, ...withoutCors } = ANY_ORIGIN;
  faulty.answer.set('/packages/', passing(server, withoutCors));
  // A worker has the policy of its own script, which allows no other origin.
  const { error } = await page.evaluate((url) => window.lab.load(url, { worker: false }), `${faulty.url}packages/${whole.name}/`);
  expect(error).toMatchObject({ code: 'network', message: expect.stringContaining('has to send Access-Control-Allow-Origin') });
  expect(faulty.requests.filter(({ method }) => method === 'GET')).toHaveLength(1);
  await page.context().close();
});
