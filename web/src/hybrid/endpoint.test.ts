import { expect, test } from 'vitest';
import type { HaikuqError } from '../errors.js';
import { anthropicMessages } from './anthropic.js';
import { openaiCompatible } from './openai-compatible.js';
import { eventServer, events, openaiEvents } from './testing/event-server.js';

function refusal(make: () => unknown): HaikuqError {
  try {
    make();
  } catch (error) {
    return error as HaikuqError;
  }
  throw new Error('was not refused');
}

test.each([
  'https://api.anthropic.com/v1/messages',
  'https://API.OpenAI.com/v1/chat/completions',
  '//api.openai.com/v1/chat/completions',
  'https://api.openai.com./v1/chat/completions',
  new URL('https://api.anthropic.com'),
])("the provider's own host is refused: %s", (endpoint) => {
  for (const make of [anthropicMessages, openaiCompatible]) {
    const error = refusal(() => make({ endpoint, model: 'm', maxTokens: 9 }));
    expect(error.code).toBe('invalid-argument');
    expect(error.message).toMatch(/endpoint of your own.*docs\/web\.md/);
  }
});

test.each(['/api/chat', 'https://site.example/api.openai.com/', 'https://api.openai.com.site.example/'])(
  'an endpoint of the site is taken: %s',
  (endpoint) => {
    expect(openaiCompatible({ endpoint, model: 'm' })).toHaveProperty('chat');
  },
);

test.each([
  { 'x-api-key': 'sk-ant-api03-abcdefghijkl' },
  { Authorization: 'Bearer sk-proj-abcdefghijkl' },
  { authorization: 'sk-abcdefghijkl' },
  { 'x-other': 'sk-abcdefghijkl' },
])('a secret key in a header is refused, and not repeated: %o', (headers) => {
  const error = refusal(() => openaiCompatible({ endpoint: '/api', model: 'm', headers: headers as unknown as Record<string, string> }));
  expect(error.code).toBe('invalid-argument');
  expect(error.message).not.toContain('abcdefghijkl');
});

test('a secret key from a header function is refused before anything is sent', async () => {
  const server = await eventServer(events(openaiEvents(['no'])));
  const headers = async () => ({ authorization: 'Bearer sk-abcdefghijkl' });
  const stream = openaiCompatible({ endpoint: server.url, model: 'm', headers }).chat([{ role: 'user', content: 'hi' }]);
  await expect(stream.result).rejects.toMatchObject({ code: 'invalid-argument' });
  expect(server.received).toEqual([]);
});

test('a session token of the site is passed on, asked anew for every request', async () => {
  const server = await eventServer(events(openaiEvents(['yes'])));
  let count = 0;
  const headers = () => ({ authorization: `Bearer eyJhbGciOi.${++count}-sk-notakey` });
  const backend = openaiCompatible({ endpoint: server.url, model: 'm', headers });
  await backend.chat([{ role: 'user', content: 'hi' }]).result;
  await backend.chat([{ role: 'user', content: 'hi' }]).result;
  expect(server.received.map(({ headers }) => headers.authorization)).toEqual([
    'Bearer eyJhbGciOi.1-sk-notakey',
    'Bearer eyJhbGciOi.2-sk-notakey',
  ]);
});

test.each([
  { endpoint: '', model: 'm', maxTokens: 1 },
  { endpoint: '/a', model: '', maxTokens: 1 },
  { endpoint: '/a', model: 'm', maxTokens: 0 },
  { endpoint: '/a', model: 'm', maxTokens: 1.5 },
  { endpoint: '/a', model: 'm', maxTokens: 1, timeoutMs: 0 },
  { endpoint: '/a', model: 'm', maxTokens: 1, maxRetryAfter: -1 },
])('options out of range are refused: %o', (options) => {
  expect(refusal(() => anthropicMessages(options)).code).toBe('invalid-argument');
});
