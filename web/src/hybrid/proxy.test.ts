/// <reference types="node" />
/** The proxy of the docs, as a process of its own, between the adapters and a provider that is not one. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { request } from 'node:http';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import type { Message } from '../types.js';
import { anthropicMessages } from './anthropic.js';
import { openaiCompatible } from './openai-compatible.js';
import { collect } from './testing/backends.js';
import { anthropicEvents, eventServer, events, json, openaiEvents, writeEvents } from './testing/event-server.js';

const ORIGIN = 'https://site.example';
const HELLO: Message[] = [{ role: 'user', content: 'Hello' }];
const PROXY = fileURLToPath(new URL('../../examples/proxy.mjs', import.meta.url));

async function startProxy(upstream: string): Promise<string> {
  const child = spawn(process.execPath, [PROXY], {
    env: {
      ORIGIN,
      PORT: '0',
      MODEL: 'the-model',
      MAX_TOKENS: '50',
      ANTHROPIC_API_KEY: 'anthropic-secret',
      ANTHROPIC_URL: `${upstream}/v1/messages`,
      OPENAI_API_KEY: 'openai-secret',
      OPENAI_URL: `${upstream}/v1/chat/completions`,
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(() => void child.kill());
  const [url] = await once(createInterface(child.stdout), 'line');
  return url;
}

/** A request of a page: `Origin` is the browser's to set, so that `fetch` of Node does not. */
const asPage: typeof fetch = (url, init) => {
  const headers = new Headers(init?.headers);
  headers.set('origin', ORIGIN);
  return fetch(url, { ...init, headers });
};

test("Anthropic's events come through the proxy, which adds the key and keeps to its own model and limit", async () => {
  const upstream = await eventServer(events(anthropicEvents(['Früh', 'ling 🌸'])));
  const endpoint = `${await startProxy(upstream.url)}/api/anthropic`;
  const backend = anthropicMessages({ endpoint, model: 'expensive', maxTokens: 4000, fetch: asPage, body: { tools: [{ name: 'x' }] } });
  const stream = backend.chat([{ role: 'system', content: 'Be brief.' }, ...HELLO], { temperature: 0.5 });
  expect((await collect(stream)).join('')).toBe('Frühling 🌸');
  expect(upstream.received).toMatchObject([
    { path: '/v1/messages', headers: { 'x-api-key': 'anthropic-secret', 'anthropic-version': '2023-06-01' } },
  ]);
  expect(upstream.received[0]?.body).toEqual({
    model: 'the-model',
    stream: true,
    max_tokens: 50,
    system: 'Be brief.',
    messages: HELLO,
    temperature: 0.5,
  });
});

test("OpenAI's events come through the proxy", async () => {
  const upstream = await eventServer(events(openaiEvents(['Früh', 'ling 🌸'])));
  const endpoint = `${await startProxy(upstream.url)}/api/openai`;
  const backend = openaiCompatible({ endpoint, model: 'm', maxTokens: 20, maxTokensField: 'max_completion_tokens', fetch: asPage });
  expect(await backend.chat(HELLO).result).toMatchObject({ text: 'Frühling 🌸', usage: { completionTokens: 5 } });
  expect(upstream.received).toMatchObject([{ path: '/v1/chat/completions', headers: { authorization: 'Bearer openai-secret' } }]);
  expect(upstream.received[0]?.body).toEqual({
    model: 'the-model',
    stream: true,
    max_completion_tokens: 20,
    stream_options: { include_usage: true },
    messages: HELLO,
  });
});

test('text comes through before the answer is whole, and leaving hangs up at the provider', async () => {
  let hungUp!: () => void;
  const seen = new Promise<void>((resolve) => (hungUp = resolve));
  const upstream = await eventServer(async (response) => {
    response.on('close', hungUp);
    await writeEvents(response, anthropicEvents(['one'], { end: false }));
  });
  const endpoint = `${await startProxy(upstream.url)}/api/anthropic`;
  const stream = anthropicMessages({ endpoint, model: 'm', maxTokens: 9, fetch: asPage }).chat(HELLO);
  for await (const piece of stream) {
    expect(piece).toBe('one');
    break;
  }
  await seen;
});

test('leaving before the provider answers hangs up there too', async () => {
  let hungUp!: () => void;
  const seen = new Promise<void>((resolve) => (hungUp = resolve));
  const stream: { abort?: () => void } = {};
  const upstream = await eventServer((response) => {
    response.on('close', hungUp);
    stream.abort?.();
  });
  const endpoint = `${await startProxy(upstream.url)}/api/anthropic`;
  const { abort, result } = anthropicMessages({ endpoint, model: 'm', maxTokens: 9, fetch: asPage }).chat(HELLO);
  stream.abort = abort;
  expect((await result).finish).toBe('cancelled');
  await seen;
});

test("a busy provider's status and wait are passed on, a refused key is not", async () => {
  const upstream = await eventServer(
    json(429, { error: { message: 'Slow down' } }, { 'retry-after': '0' }),
    json(401, { error: { message: 'Incorrect API key provided: open*****cret' } }),
  );
  const endpoint = `${await startProxy(upstream.url)}/api/openai`;
  const error = await openaiCompatible({ endpoint, model: 'm', fetch: asPage })
    .chat(HELLO)
    .result.catch((error) => error);
  expect(upstream.received).toHaveLength(2);
  expect(error).toMatchObject({ code: 'cloud', details: { status: 502 } });
  expect(error.message).not.toContain('cret');
});

test('a provider that hangs up midway is a broken connection for the page', async () => {
  const upstream = await eventServer(async (response) => {
    await writeEvents(response, anthropicEvents(['one'], { end: false }));
    response.destroy();
  });
  const endpoint = `${await startProxy(upstream.url)}/api/anthropic`;
  const { result } = anthropicMessages({ endpoint, model: 'm', maxTokens: 9, fetch: asPage }).chat(HELLO);
  await expect(result).rejects.toMatchObject({ code: 'network', details: { partialText: 'one' } });
});

test('a request that no page of the site would send is refused without asking the provider', async () => {
  const upstream = await eventServer(json(200, {}));
  const proxy = await startProxy(upstream.url);
  const body = JSON.stringify({ messages: HELLO });
  const post = async (path: string, init: RequestInit) => (await fetch(proxy + path, { method: 'POST', body, ...init })).status;
  const headers = { origin: ORIGIN };
  expect(await post('/api/openai', {})).toBe(403);
  expect(await post('/api/openai', { headers: { origin: 'https://other.example' } })).toBe(403);
  expect(await post('/api/other', { headers })).toBe(404);
  expect((await fetch(`${proxy}/api/openai`, { headers })).status).toBe(404);
  expect(await post('/api/openai', { headers, body: '{' })).toBe(400);
  expect(await post('/api/openai', { headers, body: JSON.stringify('x'.repeat(65536)) })).toBe(413);
  expect(await withoutLength(`${proxy}/api/openai`, body)).toBe(413);
  expect(upstream.received).toEqual([]);
});

/** The status of an answer to a chunked request, which does not say beforehand how long it is. */
async function withoutLength(url: string, body: string): Promise<number | undefined> {
  const sent = request(url, { method: 'POST', headers: { origin: ORIGIN, 'transfer-encoding': 'chunked' } });
  sent.end(body);
  const [response] = await once(sent, 'response');
  response.resume();
  return response.statusCode;
}
