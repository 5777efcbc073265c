/// <reference types="node" />
import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, test } from 'vitest';
import { anthropicMessages } from './anthropic.js';
import { collect } from './testing/backends.js';
import { anthropicEvents, eventServer, events, json } from './testing/event-server.js';

/** A URL where nobody listens. */
async function closedPort(): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return `http://127.0.0.1:${port}/chat`;
}

const ANSWER = events(anthropicEvents(['yes']));
const BUSY = { type: 'error', error: { type: 'rate_limit_error', message: 'Slow down' } };

function ask(endpoint: string, extra = {}) {
  return anthropicMessages({ endpoint, model: 'm', maxTokens: 100, ...extra }).chat([{ role: 'user', content: 'Hello' }]);
}

test.each([
  [401, { type: 'error', error: { type: 'authentication_error', message: 'invalid x-api-key' } }, 'invalid x-api-key'],
  [500, { type: 'error', error: { type: 'api_error', message: 'Internal server error' } }, 'Internal server error'],
  [400, { error: 'plain words' }, 'plain words'],
  [404, { detail: 'Not Found' }, '{"detail":"Not Found"}'],
])("status %i is a cloud error with the API's message", async (status, body, message) => {
  const server = await eventServer(json(status, body));
  await expect(ask(server.url).result).rejects.toMatchObject({
    code: 'cloud',
    message: `${server.url} answered ${status}: ${message}`,
    details: { status, file: server.url },
  });
  expect(server.received).toHaveLength(1);
});

test("a gateway's page is quoted in part", async () => {
  const server = await eventServer((response: ServerResponse) => {
    response.writeHead(502, { 'content-type': 'text/html' }).end(`<h1>Bad gateway</h1>${'.'.repeat(10_000)}`);
  });
  const error = await ask(server.url).result.catch((error) => error);
  expect(error).toMatchObject({ code: 'cloud', details: { status: 502 } });
  expect(error.message).toContain('<h1>Bad gateway</h1>');
  expect(error.message.length).toBeLessThan(400);
});

test('an answer that is no event stream is a cloud error that says what it is', async () => {
  const server = await eventServer((response: ServerResponse) => {
    response.writeHead(200, { 'content-type': 'text/html' }).end('<!doctype html>');
  });
  await expect(ask(server.url).result).rejects.toMatchObject({ code: 'cloud', message: expect.stringContaining('text/html') });
});

test.each(['0', '0.01', 'Thu, 01 Jan 1970 00:00:00 GMT'])('busy with Retry-After %s is asked once again', async (retryAfter) => {
  const server = await eventServer(json(429, BUSY, { 'retry-after': retryAfter }), ANSWER);
  expect(await ask(server.url).text()).toBe('yes');
  expect(server.received).toHaveLength(2);
  expect(server.received[1]?.body).toEqual(server.received[0]?.body);
});

test('once only', async () => {
  const server = await eventServer(json(429, BUSY, { 'retry-after': '0' }));
  await expect(ask(server.url).result).rejects.toMatchObject({ code: 'cloud', details: { status: 429 } });
  expect(server.received).toHaveLength(2);
});

test.each([
  ['without Retry-After', {}, {}],
  ['for longer than the limit', { 'retry-after': '11' }, {}],
  ['with an unreadable Retry-After', { 'retry-after': 'soon' }, {}],
  ['and retries are switched off', { 'retry-after': '0' }, { maxRetryAfter: 0 }],
])('busy %s is an error at once', async (_, headers, extra) => {
  const server = await eventServer(json(429, BUSY, headers as Record<string, string>), ANSWER);
  await expect(ask(server.url, extra).result).rejects.toMatchObject({ code: 'cloud', message: expect.stringContaining('Slow down') });
  expect(server.received).toHaveLength(1);
});

test('the wait is not silence of the endpoint', async () => {
  const responses = [
    new Response('{}', { status: 429, headers: { 'retry-after': '0.1' } }),
    new Response(anthropicEvents(['yes']), { headers: { 'content-type': 'text/event-stream' } }),
  ];
  expect(await ask('/api', { timeoutMs: 20, fetch: async () => responses.shift() }).text()).toBe('yes');
});

test('abort ends the wait for the second try', async () => {
  const server = await eventServer(json(429, BUSY, { 'retry-after': '3600' }), ANSWER);
  const stream = ask(server.url, {
    maxRetryAfter: 4000,
    fetch: async (...args: Parameters<typeof fetch>) => {
      const response = await fetch(...args);
      setTimeout(() => stream.abort());
      return response;
    },
  });
  expect((await stream.result).finish).toBe('cancelled');
  expect(server.received).toHaveLength(1);
});

test('an endpoint that cannot be reached is a network error that names it', async () => {
  const endpoint = await closedPort();
  await expect(ask(endpoint).result).rejects.toMatchObject({
    code: 'network',
    message: expect.stringContaining(endpoint),
    details: { file: endpoint },
  });
});

test('an endpoint that never answers is a network error', async () => {
  const server = await eventServer(() => {});
  await expect(ask(server.url, { timeoutMs: 20 }).result).rejects.toMatchObject({
    code: 'network',
    message: expect.stringContaining('20 ms'),
  });
});

test('an endpoint that falls silent midway is a network error with the text so far', async () => {
  const body = new ReadableStream({
    start: (controller) => controller.enqueue(new TextEncoder().encode(anthropicEvents(['one'], { end: false }))),
  });
  const silent = async () => new Response(body, { headers: { 'content-type': 'text/event-stream' } });
  const { result } = ask('/api', { timeoutMs: 20, fetch: silent });
  await expect(result).rejects.toMatchObject({ code: 'network', details: { partialText: 'one' } });
});

test('fetch is called as a function, not as a method', async () => {
  const server = await eventServer(ANSWER);
  let receiver: unknown = 'not called';
  function strict(this: unknown, ...args: Parameters<typeof fetch>) {
    receiver = this;
    return fetch(...args);
  }
  expect(await collect(ask(server.url, { fetch: strict }))).toEqual(['yes']);
  expect(receiver).toBeUndefined();
});
