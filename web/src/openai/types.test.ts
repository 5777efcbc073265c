/** OpenAI's own types against ours: `npm run check` compiles this, and what compiles has to run too. */

import type OpenAI from 'openai';
import { beforeEach, expect, it } from 'vitest';
import { fakeEngines } from '../testing/fake-engine.js';
import { fakeModel } from '../testing/fake-model.js';
import type { OpenAIShape } from '../types.js';

let client: OpenAIShape;
beforeEach(async () => {
  const engines = fakeEngines();
  engines.answer = () => 'Hello';
  client = (await fakeModel(engines)).openai;
});

const messages: OpenAI.ChatCompletionMessageParam[] = [
  { role: 'developer', content: [{ type: 'text', text: 'Be brief.' }] },
  { role: 'user', content: 'Hi', name: 'Ada' },
  {
    role: 'assistant',
    content: null,
    tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'now', arguments: '{}' } }],
  },
  { role: 'tool', tool_call_id: 'call_1', content: 'noon' },
];

it('takes messages and parameters, and gives completions', async () => {
  const params: OpenAI.ChatCompletionCreateParamsNonStreaming = { model: 'gpt-5', messages, max_completion_tokens: 20, user: 'me' };
  const completion: OpenAI.ChatCompletion = await client.chat.completions.create(params);
  const message: OpenAI.ChatCompletionMessage | undefined = completion.choices[0]?.message;
  const usage: OpenAI.CompletionUsage | undefined = completion.usage;
  expect([message?.content, message?.refusal, completion.choices[0]?.finish_reason]).toEqual(['Hello', null, 'stop']);
  expect(usage?.prompt_tokens_details?.cached_tokens).toBe(3);
});

it('takes what it gave as the next history', async () => {
  const history: OpenAI.ChatCompletionMessageParam[] = [{ role: 'user', content: 'Hi' }];
  const { choices } = await client.chat.completions.create({ model: 'm', messages: history });
  if (choices[0]) history.push(choices[0].message);
  history.push({ role: 'user', content: 'And?' });
  expect((await client.chat.completions.create({ messages: history })).choices[0]?.message.content).toBe('Hello');
});

it('streams chunks', async () => {
  const params: OpenAI.ChatCompletionCreateParamsStreaming = {
    model: 'm',
    messages,
    stream: true,
    stream_options: { include_usage: true },
  };
  const stream: AsyncIterable<OpenAI.ChatCompletionChunk> & { controller: AbortController } = await client.chat.completions.create(params);
  let text = '';
  let usage: OpenAI.CompletionUsage | null | undefined;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? '';
    usage = chunk.usage ?? usage;
  }
  expect([text, usage?.completion_tokens]).toEqual(['Hello', 6]);
});

it('takes parameters that may or may not stream', async () => {
  const params: OpenAI.ChatCompletionCreateParams = { model: 'm', messages, stream: Math.random() > 2 };
  const answer: AsyncIterable<OpenAI.ChatCompletionChunk> | OpenAI.ChatCompletion = await client.chat.completions.create(params);
  expect('choices' in answer).toBe(true);
});

it('lists its one model', async () => {
  const listed: OpenAI.Model[] = (await client.models.list()).data;
  for await (const model of client.models.list()) listed.push(model satisfies OpenAI.Model);
  const retrieved: OpenAI.Model = await client.models.retrieve('test');
  expect([...listed, retrieved].map(({ id }) => id)).toEqual(['test', 'test', 'test']);
});

it('serves where a part of the client is expected', async () => {
  /** As many programs have it: only what they use of the client. */
  interface Writes {
    chat: {
      completions: {
        create(params: OpenAI.ChatCompletionCreateParamsNonStreaming, options?: OpenAI.RequestOptions): PromiseLike<OpenAI.ChatCompletion>;
      };
    };
  }
  const writes: Writes = client;
  expect((await writes.chat.completions.create({ model: 'm', messages }, { timeout: 1000 })).object).toBe('chat.completion');
});
