import { expect, test } from 'vitest';
import { createOpenAI } from '../openai/client.js';
import type { Message } from '../types.js';
import { openaiCompatible } from './openai-compatible.js';
import { collect } from './testing/backends.js';
import { eventServer, events, hangUpAfter, json, openaiEvents } from './testing/event-server.js';

const HELLO: Message[] = [{ role: 'user', content: 'Hello' }];

function backend(endpoint: string, extra = {}) {
  return openaiCompatible({ endpoint, model: 'm', ...extra });
}

test.each([1, 3, 17, 10_000])('streams the text and its counts in chunks of %i bytes', async (size) => {
  const pieces = ['Früh', 'ling 🌸', '雪'];
  const server = await eventServer(events(openaiEvents(pieces), size));
  const stream = backend(server.url).chat(HELLO);
  expect(await collect(stream)).toEqual(pieces);
  expect(await stream.result).toMatchObject({
    text: 'Frühling 🌸雪',
    finish: 'stop',
    usage: { promptTokens: 30, reusedTokens: 16, completionTokens: 5 },
    answeredBy: 'cloud',
  });
});

test.each([
  ['stop', 'stop'],
  ['length', 'length'],
  ['content_filter', 'stop'],
])('finish reason %s finishes as %s', async (finishReason, finish) => {
  const server = await eventServer(events(openaiEvents(['x'], { finishReason })));
  expect((await backend(server.url).chat(HELLO).result).finish).toBe(finish);
});

test('a server that sends no usage gives counts of 0', async () => {
  const server = await eventServer(events(openaiEvents(['x'], { usage: false })));
  expect((await backend(server.url).chat(HELLO).result).usage).toEqual({ promptTokens: 0, reusedTokens: 0, completionTokens: 0 });
});

test('a server that closes after its finish reason without [DONE] has answered', async () => {
  const server = await eventServer(events(openaiEvents(['x']).replace('data: [DONE]\n\n', '')));
  expect(await backend(server.url).chat(HELLO).text()).toBe('x');
});

test('comments between events, and a refusal in a field of its own', async () => {
  const refusal = 'data: {"choices":[{"index":0,"delta":{"refusal":"I cannot."},"finish_reason":null}]}\n\n';
  const server = await eventServer(events(`: PROCESSING\n\n${refusal}: PROCESSING\n\n${openaiEvents([])}`));
  expect(await backend(server.url).chat(HELLO).text()).toBe('I cannot.');
});

test('calls of tools are sent as OpenAI has them: arguments as JSON, with all their digits', async () => {
  const server = await eventServer(events(openaiEvents(['x'])));
  const create = createOpenAI(backend(server.url), 'm').chat.completions.create;
  const tool_calls = [
    {
      id: '1',
      type: 'function' as const,
      function: { name: 'f', arguments: '{"id": 123456789012345678901, "s": "{\\"\\u0000number\\":\\"1\\"}", "x": 1.0}' },
    },
    { id: '2', type: 'function' as const, function: { name: 'g', arguments: '[1' } },
  ];
  await create({
    messages: [
      { role: 'assistant', content: null, tool_calls },
      { role: 'tool', content: 'y', tool_call_id: '1' },
    ],
  });
  const [said] = (server.received[0]!.body as { messages: { content: unknown; tool_calls: typeof tool_calls }[] }).messages;
  expect(said?.content).toBeNull();
  const [first, second] = said?.tool_calls ?? [];
  expect(first?.function.arguments).toBe('{"id":123456789012345678901,"s":"{\\"\\u0000number\\":\\"1\\"}","x":1.0}');
  expect(second).toEqual(tool_calls[1]);
});

test('options are passed on, and body wins over them', async () => {
  const server = await eventServer(events(openaiEvents(['x'])));
  const options = { maxTokens: 7, temperature: 0.5, topP: 0.9, stop: ['END', 'FIN'], seed: 1, topK: 40 };
  await backend(server.url).chat(HELLO, options).result;
  await backend(server.url, { maxTokens: 9, maxTokensField: 'max_completion_tokens', body: { stream_options: undefined, top_k: 5 } }).chat([
    { role: 'tool', content: 'x', tool_call_id: '1' },
  ]).result;
  expect(server.received.map(({ body }) => body)).toEqual([
    {
      model: 'm',
      messages: HELLO,
      stream: true,
      stream_options: { include_usage: true },
      max_tokens: 7,
      temperature: 0.5,
      top_p: 0.9,
      seed: 1,
      stop: ['END', 'FIN'],
    },
    { model: 'm', messages: [{ role: 'tool', content: 'x', tool_call_id: '1' }], stream: true, max_completion_tokens: 9, top_k: 5 },
  ]);
});

test.each([
  '{"error":{"message":"The server had an error","type":"server_error","code":null}}',
  '{"error":"The server had an error"}',
  '{"object":"error","message":"The server had an error","code":50001}',
])('an error midway is thrown with the text so far: %s', async (error) => {
  const server = await eventServer(events(`${openaiEvents(['one'], { end: false })}data: ${error}\n\n`));
  await expect(backend(server.url).chat(HELLO).result).rejects.toMatchObject({
    code: 'cloud',
    message: 'The server had an error',
    details: { partialText: 'one' },
  });
});

test.each(['{"choices":[', '[1]', 'null'])('an event that is no object is a cloud error: %s', async (data) => {
  const server = await eventServer(events(`data: ${data}\n\n`));
  await expect(backend(server.url).chat(HELLO).result).rejects.toMatchObject({ code: 'cloud' });
});

test('a hang-up midway is a network error with the text so far', async () => {
  const server = await eventServer(hangUpAfter(openaiEvents(['one'], { end: false })));
  await expect(backend(server.url).chat(HELLO).result).rejects.toMatchObject({ code: 'network', details: { partialText: 'one' } });
});

test('a conversation too long for the model is context-overflow', async () => {
  const error = {
    error: { message: 'maximum context length is 8192 tokens', type: 'invalid_request_error', code: 'context_length_exceeded' },
  };
  const server = await eventServer(json(400, error));
  await expect(backend(server.url).chat(HELLO).result).rejects.toMatchObject({ code: 'context-overflow', details: { status: 400 } });
});

test('tools for the template of the local model are refused, lest they are lost in silence', async () => {
  const asked = backend('/v1/chat/completions').chat(HELLO, { tools: [{ type: 'function', function: { name: 'now' } }] });
  await expect(asked.result).rejects.toMatchObject({ code: 'invalid-argument', message: expect.stringContaining('tools') as string });
});
