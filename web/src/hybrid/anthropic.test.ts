import { expect, test, vi } from 'vitest';
import type { Message } from '../types.js';
import { anthropicMessages } from './anthropic.js';
import { anthropicEvents, eventServer, events, hangUpAfter, writeEvents } from './testing/event-server.js';
import { collect } from './testing/backends.js';

const HELLO: Message[] = [{ role: 'user', content: 'Hello' }];

function backend(endpoint: string, extra = {}) {
  return anthropicMessages({ endpoint, model: 'm', maxTokens: 100, ...extra });
}

test.each([1, 2, 3, 5, 64, 10_000])('streams the text and its counts in chunks of %i bytes', async (size) => {
  const pieces = ['Früh', 'ling 🌸', '\n\n雪'];
  const server = await eventServer(events(anthropicEvents(pieces), size));
  const stream = backend(server.url).chat(HELLO);
  expect(await collect(stream)).toEqual(pieces);
  expect(await stream.result).toMatchObject({
    text: 'Frühling 🌸\n\n雪',
    finish: 'stop',
    usage: { promptTokens: 32, reusedTokens: 20, completionTokens: 12 },
    answeredBy: 'cloud',
    recoveries: 0,
  });
});

test.each([
  ['end_turn', 'stop'],
  ['stop_sequence', 'stop'],
  ['max_tokens', 'length'],
  ['model_context_window_exceeded', 'context'],
  ['refusal', 'stop'],
])('stop reason %s finishes as %s', async (stopReason, finish) => {
  const server = await eventServer(events(anthropicEvents(['x'], { stopReason })));
  expect((await backend(server.url).chat(HELLO).result).finish).toBe(finish);
});

test('events and blocks of other kinds are no text', async () => {
  const other = [
    { type: 'content_block_delta', index: 0, delta: { type: 'thinking_delta', thinking: 'hm' } },
    { type: 'content_block_delta', index: 1, delta: { type: 'input_json_delta', partial_json: '{' } },
    { type: 'some_new_event', text: 'no' },
  ];
  const extra = other.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join('');
  const server = await eventServer(events(extra + anthropicEvents(['yes'])));
  expect(await backend(server.url).chat(HELLO).text()).toBe('yes');
});

test('system messages become system, neighbours of one role one turn, empty messages nothing', async () => {
  const server = await eventServer(events(anthropicEvents(['x'])));
  const messages = [
    { role: 'system', content: 'Be brief.' },
    { role: 'user', content: 'One' },
    { role: 'assistant', content: '' },
    { role: 'user', content: 'Two' },
    { role: 'developer', content: 'Be kind.' },
    { role: 'assistant', content: 'Three' },
    { role: 'assistant', content: 'Four' },
    { role: 'user', content: 'Five' },
  ];
  await backend(server.url, { system: 'First.' }).chat(messages).result;
  expect(server.received[0]?.body).toEqual({
    model: 'm',
    max_tokens: 100,
    stream: true,
    system: 'First.\n\nBe brief.\n\nBe kind.',
    messages: [
      { role: 'user', content: 'One\n\nTwo' },
      { role: 'assistant', content: 'Three\n\nFour' },
      { role: 'user', content: 'Five' },
    ],
  });
});

test('tool calls are refused, not dropped', async () => {
  const calls: Message[] = [{ role: 'assistant', content: 'x', tool_calls: [{ id: '1' }] }];
  const refused = anthropicMessages({ endpoint: 'http://localhost/', model: 'm', maxTokens: 1 }).chat(calls).result;
  await expect(refused).rejects.toMatchObject({ code: 'invalid-argument', message: expect.stringContaining('messages[0].tool_calls') });
});

test('a greeting of the assistant does not open the conversation', async () => {
  const server = await eventServer(events(anthropicEvents(['x'])));
  await backend(server.url).chat([{ role: 'assistant', content: 'Hello!' }, ...HELLO]).result;
  const roles = server.received[0]?.body.messages.map(({ role }: Message) => role);
  expect(roles).toEqual(['user', 'assistant', 'user']);
});

test('options are passed on, and body wins over them', async () => {
  const server = await eventServer(events(anthropicEvents(['x'])));
  const options = { maxTokens: 7, temperature: 1.5, topK: 40, topP: 0.9, stop: 'END', seed: 1, minP: 0.1 };
  await backend(server.url, { body: { top_p: undefined, metadata: { user_id: 'u' } } }).chat(HELLO, options).result;
  expect(server.received[0]?.body).toEqual({
    model: 'm',
    max_tokens: 7,
    stream: true,
    messages: HELLO,
    temperature: 1,
    top_k: 40,
    stop_sequences: ['END'],
    metadata: { user_id: 'u' },
  });
});

test.each([
  [[], /no messages/],
  [[{ role: 'system', content: 'Only this.' }], /no message of the user/],
  [[{ role: 'tool', content: 'x' }], /message 0 has the role tool/],
  [[{ role: 'user', content: 3 }], /message 0 needs/],
])('messages that the API has no form for are refused unsent: %o', async (messages, message) => {
  const server = await eventServer(events(anthropicEvents(['x'])));
  const stream = backend(server.url).chat(messages as unknown as Message[]);
  await expect(stream.result).rejects.toMatchObject({ code: 'invalid-argument', message: expect.stringMatching(message) });
  expect(server.received).toEqual([]);
});

test('an error event midway is thrown after the text before it', async () => {
  const error = 'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n';
  const server = await eventServer(events(anthropicEvents(['one ', 'two'], { end: false }) + error));
  const stream = backend(server.url).chat(HELLO);
  const pieces: string[] = [];
  const reading = (async () => {
    for await (const piece of stream) pieces.push(piece);
  })();
  await expect(reading).rejects.toMatchObject({ code: 'cloud', message: 'Overloaded', details: { partialText: 'one two' } });
  expect(pieces).toEqual(['one ', 'two']);
});

test('a hang-up midway is a network error with the text so far', async () => {
  const server = await eventServer(hangUpAfter(anthropicEvents(['one'], { end: false })));
  await expect(backend(server.url).chat(HELLO).result).rejects.toMatchObject({ code: 'network', details: { partialText: 'one' } });
});

test('an orderly end before message_stop is a network error too', async () => {
  const server = await eventServer(events(anthropicEvents(['one'], { end: false })));
  await expect(backend(server.url).chat(HELLO).result).rejects.toMatchObject({
    code: 'network',
    message: expect.stringContaining('before the answer was complete'),
  });
});

test('abort closes the connection and keeps the text', async () => {
  let closed!: () => void;
  const seen = new Promise<void>((resolve) => (closed = resolve));
  const server = await eventServer(async (response) => {
    response.on('close', closed);
    await writeEvents(response, anthropicEvents(['one'], { end: false }));
  });
  const controller = new AbortController();
  const stream = backend(server.url).chat(HELLO, { signal: controller.signal });
  const reading = (async () => {
    for await (const _ of stream) controller.abort();
  })();
  await expect(reading).rejects.toMatchObject({ code: 'aborted' });
  expect(await stream.result).toMatchObject({ finish: 'cancelled', text: 'one', answeredBy: 'cloud' });
  await seen;
});

test('a signal that is aborted already sends nothing', async () => {
  const fetch = vi.fn();
  const stream = backend('/api', { fetch }).chat(HELLO, { signal: AbortSignal.abort() });
  expect((await stream.result).finish).toBe('cancelled');
  expect(fetch).not.toHaveBeenCalled();
});
