import { describe, expect, it } from 'vitest';
import { createOpenAI } from './client.js';
import { createStream } from '../stream.js';
import type { ChatBackend, ChatOptions, FinishReason, GenerationResult, Message, OpenAIChunk } from '../types.js';

const messages: Message[] = [{ role: 'user', content: 'Hi' }];

/** Says `pieces`, one a turn, and keeps what it was asked. */
function backend(pieces: string[], finish: FinishReason = 'stop') {
  const asked: { messages: readonly Message[]; options: ChatOptions | undefined }[] = [];
  const chat: ChatBackend['chat'] = (said, options) => {
    asked.push({ messages: said, options });
    let cancelled = false;
    const result = (text: string): GenerationResult => ({
      text,
      ids: new Uint32Array(),
      finish: cancelled ? 'cancelled' : finish,
      usage: { promptTokens: 10, reusedTokens: 4, completionTokens: 5 },
      timings: { timeToFirstTokenMs: 1, decodeMs: 1, tokensPerSecond: 1 },
      recoveries: 0,
      answeredBy: 'local',
    });
    const stream = createStream<string, GenerationResult>({
      signal: options?.signal,
      async start(push) {
        let text = '';
        for (const piece of pieces) {
          await new Promise((resolve) => setTimeout(resolve, 1));
          if (cancelled) break;
          text += piece;
          push(piece);
        }
        return result(text);
      },
      cancel: () => (cancelled = true),
      nothing: () => {
        cancelled = true;
        return result('');
      },
    });
    return { ...stream, text: async () => (await stream.result).text };
  };
  return { asked, openai: createOpenAI({ chat }, 'tiny') };
}
async function collect(stream: AsyncIterable<OpenAIChunk>) {
  const chunks: OpenAIChunk[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}
const usage = { prompt_tokens: 10, completion_tokens: 5, total_tokens: 15, prompt_tokens_details: { cached_tokens: 4 } };

describe('chat.completions.create', () => {
  it('answers as a whole', async () => {
    const { openai, asked } = backend(['Hel', 'lo']);
    const before = Math.floor(Date.now() / 1000);
    const completion = await openai.chat.completions.create({
      messages,
      max_tokens: 9,
      max_completion_tokens: 7,
      temperature: 0.5,
      top_p: null,
      stop: ['x'],
      seed: 3,
    });
    expect(completion).toEqual({
      id: expect.stringMatching(/^chatcmpl-/) as string,
      object: 'chat.completion',
      created: expect.any(Number) as number,
      model: 'tiny',
      choices: [
        {
          index: 0,
          message: { role: 'assistant', content: 'Hello', refusal: null, annotations: [] },
          finish_reason: 'stop',
          logprobs: null,
        },
      ],
      usage,
    });
    expect(completion.created).toBeGreaterThanOrEqual(before);
    expect(asked[0]).toEqual({ messages, options: { maxTokens: 7, temperature: 0.5, stop: ['x'], seed: 3 } });
  });

  it('streams: role, pieces, finish reason', async () => {
    const { openai } = backend(['Hel', 'lo'], 'context');
    const chunks = await collect(await openai.chat.completions.create({ messages, model: 'mine', stream: true }));
    expect(chunks.map(({ choices }) => choices)).toEqual([
      [{ index: 0, delta: { role: 'assistant', content: '', refusal: null }, finish_reason: null, logprobs: null }],
      [{ index: 0, delta: { content: 'Hel' }, finish_reason: null, logprobs: null }],
      [{ index: 0, delta: { content: 'lo' }, finish_reason: null, logprobs: null }],
      [{ index: 0, delta: {}, finish_reason: 'length', logprobs: null }],
    ]);
    expect(new Set(chunks.map(({ id, created, model, object }) => `${id} ${created} ${model} ${object}`)).size).toBe(1);
    expect(chunks[0]).toMatchObject({ model: 'mine', object: 'chat.completion.chunk' });
    expect(chunks.some((chunk) => 'usage' in chunk)).toBe(false);
  });

  it('adds the usage where it is asked for', async () => {
    const { openai } = backend([]);
    const chunks = await collect(await openai.chat.completions.create({ messages, stream: true, stream_options: { include_usage: true } }));
    expect(chunks.map(({ choices, usage }) => [choices.length, usage])).toEqual([
      [1, null],
      [1, null],
      [0, usage],
    ]);
  });

  it('ends without an error when it is aborted while it streams', async () => {
    for (const how of ['controller', 'signal'] as const) {
      const { openai } = backend(['a', 'b', 'c', 'd']);
      const outer = new AbortController();
      const stream = await openai.chat.completions.create({ messages, stream: true }, { signal: outer.signal });
      const pieces: (string | undefined)[] = [];
      for await (const { choices } of stream) {
        pieces.push(choices[0]?.delta.content);
        if (pieces.length === 2) (how === 'controller' ? stream.controller : outer).abort();
      }
      expect(pieces).toEqual(['', 'a']);
    }
  });

  it('rejects with `aborted` when it is aborted otherwise', async () => {
    const { openai } = backend(['a', 'b', 'c']);
    const controller = new AbortController();
    const completing = openai.chat.completions.create({ messages }, { signal: controller.signal });
    controller.abort();
    await expect(completing).rejects.toMatchObject({ code: 'aborted' });
  });

  it('stops writing when the loop is left', async () => {
    const { openai, asked } = backend(['a', 'b', 'c']);
    for await (const _ of await openai.chat.completions.create({ messages, stream: true })) break;
    expect(asked).toHaveLength(1);
  });

  it('tees a stream, and writes it as lines', async () => {
    const { openai } = backend(['a', 'b']);
    const [one, two] = (await openai.chat.completions.create({ messages, stream: true })).tee();
    const chunks = await collect(one);
    const lines = (await new Response(two.toReadableStream()).text()).trimEnd().split('\n');
    expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual(chunks);
    expect(chunks).toHaveLength(4);
  });

  it('gives the response beside the data', async () => {
    const { openai } = backend(['a']);
    const { data, response, request_id } = await openai.chat.completions.create({ messages }).withResponse();
    expect([await response.json(), request_id]).toEqual([data, null]);
    const streamed = await openai.chat.completions.create({ messages, stream: true }).withResponse();
    expect(await collect(streamed.data)).toHaveLength(3);
    const events = await (await openai.chat.completions.create({ messages, stream: true }).asResponse()).text();
    expect(events.split('\n\n').map((event) => event.slice(0, 14))).toEqual([
      ...Array<string>(3).fill('data: {"id":"c'),
      'data: [DONE]',
      '',
    ]);
  });
});
