/** `model.openai.fetch` under the clients that pages use: OpenAI's own, Vercel's AI SDK, LangChain. */

import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { HumanMessage, SystemMessage, type UsageMetadata } from '@langchain/core/messages';
import { ChatOpenAI } from '@langchain/openai';
import { APICallError, generateText, streamText } from 'ai';
import OpenAI from 'openai';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { decode, type FakeEngines, fakeEngines } from '../testing/fake-engine.js';
import { fakeModel } from '../testing/fake-model.js';
import type { Model } from '../types.js';

let engines: FakeEngines;
let model: Model;
/** Of the last request, as the template made it. */
const prompt = () => decode(engines.made[0]?.requests.at(-1)?.prompt ?? []);
const writing = () => engines.running > 0;

beforeEach(async () => {
  engines = fakeEngines();
  engines.answer = () => 'Hello';
  engines.beforeToken = () => new Promise((resolve) => setTimeout(resolve, 1));
  model = await fakeModel(engines);
});
const endlessly = () => (engines.answer = () => 'and '.repeat(1000));
const tooLong = 'x'.repeat(2000);

describe("OpenAI's client", () => {
  const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: 'user', content: [{ type: 'text', text: 'Hi' }] }];
  let client: OpenAI;
  beforeEach(() => (client = new OpenAI({ apiKey: 'none', baseURL: 'https://model.invalid/v1', fetch: model.openai.fetch })));

  it('completes', async () => {
    const { data, response } = await client.chat.completions.create({ model: 'mine', messages }).withResponse();
    expect(response.headers.get('content-type')).toContain('application/json');
    expect(data).toMatchObject({ model: 'mine', choices: [{ message: { content: 'Hello' }, finish_reason: 'stop' }] });
    expect(data.usage).toMatchObject({ completion_tokens: 6, total_tokens: prompt().length + 6 });
    expect(prompt()).toBe('<user>Hi<assistant>');
  });

  it('brings tool calls and their answers to the template', async () => {
    const history: OpenAI.ChatCompletionMessageParam[] = [
      {
        role: 'assistant',
        content: null,
        tool_calls: [{ id: '1', type: 'function', function: { name: 'now', arguments: '{"zone":"UTC"}' } }],
      },
      { role: 'tool', tool_call_id: '1', content: [{ type: 'text', text: 'noon' }] },
    ];
    await client.chat.completions.create({ model: 'm', messages: [...messages, ...history] });
    const calls = '{"tool_calls":[{"id":"1","type":"function","function":{"name":"now","arguments":{"zone":"UTC"}}}]}';
    expect(prompt()).toBe(`<user>Hi<assistant>null${calls}<tool>noon{"tool_call_id":"1"}<assistant>`);
  });

  it('streams, with usage', async () => {
    const chunks: OpenAI.ChatCompletionChunk[] = [];
    const params = { model: 'm', messages, stream: true, stream_options: { include_usage: true } } as const;
    for await (const chunk of await client.chat.completions.create(params)) chunks.push(chunk);
    expect(chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join('')).toBe('Hello');
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 6, prompt_tokens_details: { cached_tokens: 3 } } });
  });

  it('streams by its helper', async () => {
    const stream = client.chat.completions.stream({ model: 'm', messages });
    const pieces: string[] = [];
    stream.on('content', (piece) => pieces.push(piece));
    expect([await stream.finalContent(), pieces.join('')]).toEqual(['Hello', 'Hello']);
  });

  it('lists models, and retrieves one', async () => {
    const ids: string[] = [];
    for await (const { id } of client.models.list()) ids.push(id);
    expect([...ids, (await client.models.retrieve('test')).id]).toEqual(['test', 'test']);
    await expect(client.models.retrieve('other')).rejects.toMatchObject({ status: 404, code: 'model_not_found' });
  });

  it('aborts, before the first token and after', async () => {
    endlessly();
    const controller = new AbortController();
    const completing = client.chat.completions.create({ model: 'm', messages }, { signal: controller.signal });
    await vi.waitUntil(writing);
    controller.abort();
    await expect(completing).rejects.toBeInstanceOf(OpenAI.APIUserAbortError);
    await vi.waitUntil(() => !writing());

    const stream = await client.chat.completions.create({ model: 'm', messages, stream: true });
    for await (const { choices } of stream) if (choices[0]?.delta.content) stream.controller.abort();
    await vi.waitUntil(() => !writing());
    expect(engines.made[0]?.requests).toHaveLength(2);
  });

  it('stops the model when its loop is left', async () => {
    endlessly();
    for await (const _ of await client.chat.completions.create({ model: 'm', messages, stream: true })) break;
    await vi.waitUntil(() => !writing());
  });

  it("throws its own errors, by the caller's field", async () => {
    const refused = client.chat.completions.create({ model: 'm', messages, response_format: { type: 'xml' as 'text' } });
    await expect(refused).rejects.toMatchObject({ status: 400, type: 'invalid_request_error', param: 'response_format' });
    await expect(refused).rejects.toBeInstanceOf(OpenAI.BadRequestError);
    const long = client.chat.completions.create({ model: 'm', messages: [{ role: 'user', content: tooLong }], stream: true });
    await expect(long).rejects.toMatchObject({ status: 400, code: 'context_length_exceeded' });
    await expect(client.embeddings.create({ model: 'm', input: 'x' })).rejects.toMatchObject({ status: 404, code: 'unknown_url' });
  });

  it('throws what goes wrong after the first token, and does not ask again', async () => {
    engines.beforeToken = (_, written) => {
      if (written === 2) throw new Error('a defect');
    };
    const pieces: string[] = [];
    const reading = (async () => {
      for await (const { choices } of await client.chat.completions.create({ model: 'm', messages, stream: true })) {
        pieces.push(choices[0]?.delta.content ?? '');
      }
    })();
    await expect(reading).rejects.toThrow('a defect');
    expect(pieces.join('')).toBe('He');
    await expect(client.chat.completions.create({ model: 'm', messages })).rejects.toMatchObject({ status: 500, code: 'internal' });
    expect(engines.made.flatMap(({ requests }) => requests)).toHaveLength(2);
  });
});

describe("Vercel's AI SDK", () => {
  const chatModel = () =>
    createOpenAICompatible({ name: 'haikuq', baseURL: 'https://model.invalid/v1', fetch: model.openai.fetch, includeUsage: true })('tiny');

  it('generates', async () => {
    const parts = [
      { type: 'text', text: 'H' },
      { type: 'text', text: 'i' },
    ] as const;
    const { text, usage, finishReason } = await generateText({
      model: chatModel(),
      instructions: 'Be brief.',
      messages: [{ role: 'user', content: [...parts] }],
    });
    expect([text, finishReason, usage.outputTokens]).toEqual(['Hello', 'stop', 6]);
    expect(prompt()).toBe('<system>Be brief.<user>Hi<assistant>');
  });

  it('streams, with usage', async () => {
    const { textStream, usage } = streamText({ model: chatModel(), prompt: 'Hi' });
    let text = '';
    for await (const piece of textStream) text += piece;
    expect([text, (await usage).inputTokens, (await usage).outputTokens]).toEqual(['Hello', prompt().length, 6]);
  });

  it('aborts', async () => {
    endlessly();
    const controller = new AbortController();
    const { textStream } = streamText({ model: chatModel(), prompt: 'Hi', abortSignal: controller.signal });
    let pieces = 0;
    for await (const _ of textStream) {
      pieces += 1;
      controller.abort();
    }
    expect(pieces).toBeLessThan(20);
    await vi.waitUntil(() => !writing());
  });

  it('gets errors as it knows them', async () => {
    const error: unknown = await generateText({ model: chatModel(), prompt: tooLong }).catch((error: unknown) => error);
    expect(APICallError.isInstance(error) && error).toMatchObject({ statusCode: 400, isRetryable: false });
    expect((error as Error).message).toContain('2017 tokens are needed');
  });
});

describe('LangChain', () => {
  const chatModel = (more: object = {}) =>
    new ChatOpenAI({
      model: 'tiny',
      apiKey: 'none',
      maxRetries: 0,
      configuration: { baseURL: 'https://model.invalid/v1', fetch: model.openai.fetch },
      ...more,
    });
  const messages = [new SystemMessage('Be brief.'), new HumanMessage('Hi')];

  it('invokes', async () => {
    const message = await chatModel().invoke(messages);
    expect([message.content, (message.usage_metadata as UsageMetadata | undefined)?.output_tokens]).toEqual(['Hello', 6]);
    expect(prompt()).toBe('<system>Be brief.<user>Hi<assistant>');
  });

  it('streams, with usage', async () => {
    let text = '';
    let tokens = 0;
    for await (const chunk of await chatModel().stream(messages)) {
      text += chunk.text;
      tokens += (chunk.usage_metadata as UsageMetadata | undefined)?.output_tokens ?? 0;
    }
    expect([text, tokens]).toEqual(['Hello', 6]);
  });

  it('aborts', async () => {
    endlessly();
    const controller = new AbortController();
    const invoking = chatModel().invoke(messages, { signal: controller.signal });
    invoking.catch(() => undefined);
    await vi.waitUntil(writing);
    controller.abort();
    await expect(invoking).rejects.toThrow();
    await vi.waitUntil(() => !writing());
  });

  it('gets errors as it knows them', async () => {
    await expect(chatModel().invoke(tooLong)).rejects.toThrow('2017 tokens are needed');
    await expect(chatModel({ frequencyPenalty: 1 }).invoke(messages)).rejects.toMatchObject({ status: 400, param: 'frequency_penalty' });
  });
});
