/** A local model and a cloud behind one chat; the cloud is a local server with real event streams. */

import type { Browser, Page } from '@playwright/test';
import type { RouteEvent, Route } from 'haikuq/hybrid';
import { anthropicEndpoint, openaiEndpoint } from './support/cloud.ts';
import { type FaultyServer, faultyServer } from './support/faulty-server.ts';
import { serve, type Server } from './support/haikuq.ts';
import { whole } from './support/packages.ts';
import { expect, load, openLab, PROMPT, test } from './support/test.ts';

const endpoints = { anthropic: anthropicEndpoint(), openai: openaiEndpoint() };
const { anthropic, openai } = endpoints;
const PIECES = ['Snow ', 'falls — ', 'and ', 'the ', '🌙 ', 'listens', '.'];

let site: FaultyServer;
let page: Page;
test.beforeAll(async ({ browser, server }: { browser: Browser; server: Server }) => {
  site = await faultyServer(server);
  site.answer.set('/api/anthropic', anthropic.handle);
  site.answer.set('/api/openai', openai.handle);
  page = await openLab(await browser.newContext(), site);
  expect((await load(page, whole)).error).toBeUndefined();
});
test.beforeEach(() => {
  for (const endpoint of Object.values(endpoints)) Object.assign(endpoint, { answer: { pieces: PIECES }, asked: [], hungUp: 0 });
});
test.afterAll(async () => {
  await page.context().close();
  await site.stop();
});

interface Asked {
  cloud?: 'anthropic' | 'openai';
  route?: Route;
  /** Without the local model. */
  cloudAlone?: boolean;
  content?: string;
  abortAfter?: number;
}

/** Asks `hybrid` once; how it answered, and what it told about the route. */
function ask({ cloud = 'anthropic', route = 'cloud-first', cloudAlone = false, content = PROMPT, abortAfter = 0 }: Asked, on: Page = page) {
  return on.evaluate(
    async ({ cloud, route, cloudAlone, content, abortAfter }) => {
      const { anthropicMessages, hybrid, openaiCompatible } = window.hybrid;
      const events: { answeredBy: string; reason: string; fallbackFrom?: string; error?: string }[] = [];
      const backend = hybrid({
        ...(cloudAlone ? {} : { local: window.model }),
        cloud:
          cloud === 'anthropic'
            ? anthropicMessages({ endpoint: '/api/anthropic', model: 'a-model', maxTokens: 64 })
            : openaiCompatible({ endpoint: '/api/openai', model: 'a-model' }),
        route,
        onRoute: ({ error, ...event }: RouteEvent) => void events.push({ ...event, ...(error ? { error: error.code } : {}) }),
      });
      const messages = [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content },
      ];
      const stream = backend.chat(messages, { temperature: 0, maxTokens: 6 });
      const heard = await window.lab.hear(stream, (count) => count === abortAfter && stream.abort());
      return { ...heard, events };
    },
    { cloud, route, cloudAlone, content, abortAfter },
  );
}

test('the Anthropic Messages API streams its answer', async () => {
  const { pieces, result, events } = await ask({ cloud: 'anthropic', cloudAlone: true });
  expect(pieces).toEqual(PIECES);
  expect(result).toMatchObject({
    text: PIECES.join(''),
    finish: 'stop',
    answeredBy: 'cloud',
    usage: { promptTokens: 21, completionTokens: 9 },
  });
  expect(events).toMatchObject([{ answeredBy: 'cloud' }]);
  expect(anthropic.asked).toEqual([
    { model: 'a-model', system: 'Be brief.', messages: [{ role: 'user', content: PROMPT }], max_tokens: 6, temperature: 0, stream: true },
  ]);
});

test('an OpenAI-compatible API streams its answer', async () => {
  const { pieces, result } = await ask({ cloud: 'openai', cloudAlone: true });
  expect(pieces).toEqual(PIECES);
  expect(result).toMatchObject({
    text: PIECES.join(''),
    finish: 'stop',
    answeredBy: 'cloud',
    usage: { promptTokens: 21, completionTokens: 9 },
  });
  expect(openai.asked).toMatchObject([
    { model: 'a-model', stream: true, messages: [{ role: 'system' }, { role: 'user', content: PROMPT }] },
  ]);
});

for (const cloud of ['anthropic', 'openai'] as const) {
  test(`an error event midway (${cloud}) is thrown with the text until then, and the other side does not mix in`, async () => {
    endpoints[cloud].answer = { pieces: PIECES, errorAfter: 3 };
    const { pieces, error } = await ask({ cloud });
    expect(pieces).toEqual(PIECES.slice(0, 3));
    expect(error).toMatchObject({ code: 'cloud', details: { partialText: PIECES.slice(0, 3).join('') } });
  });

  test(`a connection that breaks midway (${cloud}) is thrown with the text until then`, async () => {
    endpoints[cloud].answer = { pieces: PIECES, breakAfter: 4 };
    const { pieces, error } = await ask({ cloud });
    expect(pieces).toEqual(PIECES.slice(0, 4));
    expect(error).toMatchObject({ code: 'network', details: { partialText: PIECES.slice(0, 4).join('') } });
  });

  test(`an error before the first word (${cloud}) lets the local model step in`, async () => {
    endpoints[cloud].answer = { pieces: [], status: 500 };
    const { result, events } = await ask({ cloud });
    expect(result).toMatchObject({ answeredBy: 'local', usage: { completionTokens: 6 } });
    expect(events).toEqual([{ answeredBy: 'local', reason: 'fallback', fallbackFrom: 'cloud', error: 'cloud' }]);
  });
}

test('an error event before the first word lets the local model step in too', async () => {
  anthropic.answer = { pieces: PIECES, errorAfter: 0 };
  const { result, events } = await ask({});
  expect(result).toMatchObject({ answeredBy: 'local' });
  expect(events).toMatchObject([{ reason: 'fallback', fallbackFrom: 'cloud' }]);
});

test('aborting hangs up on the cloud', async () => {
  anthropic.answer = { pieces: PIECES, pauseMs: 100 };
  const { pieces, result } = await ask({ abortAfter: 2 });
  expect(pieces).toEqual(PIECES.slice(0, 2));
  expect(result).toMatchObject({ finish: 'cancelled', answeredBy: 'cloud' });
  await expect.poll(() => anthropic.hungUp).toBe(1);
});

test('without network the local model answers at once, and nothing is asked', async () => {
  await page.context().setOffline(true);
  const { result, events } = await ask({});
  await page.context().setOffline(false);
  expect(result).toMatchObject({ answeredBy: 'local' });
  expect(events).toMatchObject([{ answeredBy: 'local', reason: 'offline' }]);
  expect(anthropic.asked).toEqual([]);
});

test('with the server gone the local model steps in', async () => {
  await site.goDown();
  const { result, events } = await ask({});
  await site.comeUp();
  expect(result).toMatchObject({ answeredBy: 'local' });
  expect(events).toMatchObject([{ answeredBy: 'local', reason: 'fallback', error: 'network' }]);
});

test('long prompts go to the cloud, short ones stay', async () => {
  const route = { maxPromptTokens: 60 };
  expect((await ask({ route, content: 'A fox.' })).events).toMatchObject([{ answeredBy: 'local', reason: 'route' }]);
  expect(anthropic.asked).toEqual([]);
  expect((await ask({ route, content: 'A fox and an owl. '.repeat(20) })).events).toMatchObject([
    { answeredBy: 'cloud', reason: 'prompt-length' },
  ]);
});

test('a cloud at another origin is out of the page’s reach until the server is told of it', async ({ browser }) => {
  const cloud = await faultyServer({ url: site.url, stop: () => Promise.resolve() });
  cloud.answer.set('/api', (request, response) => {
    response.setHeader('access-control-allow-origin', '*');
    response.setHeader('access-control-allow-headers', 'content-type');
    if (request.method === 'OPTIONS') response.end();
    else anthropic.handle(request, response);
  });
  const askFrom = async (url: string) => {
    const context = await browser.newContext();
    const other = await openLab(context, { url, stop: () => Promise.resolve() });
    const heard = await other.evaluate((endpoint) => {
      const backend = window.hybrid.anthropicMessages({ endpoint, model: 'a-model', maxTokens: 8 });
      return window.lab.hear(backend.chat([{ role: 'user', content: 'Hello' }]));
    }, `${cloud.url}api`);
    await context.close();
    return heard;
  };
  const allowing = await serve([whole.folder], '--connect', new URL(cloud.url).origin);
  try {
    expect((await askFrom(site.url)).error).toMatchObject({ code: 'network' });
    expect(cloud.requests).toEqual([]);
    expect((await askFrom(allowing.url)).result).toMatchObject({ text: PIECES.join(''), answeredBy: 'cloud' });
  } finally {
    await cloud.stop();
    await allowing.stop();
  }
});
