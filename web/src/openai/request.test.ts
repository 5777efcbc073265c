import { describe, expect, it } from 'vitest';
import type { OpenAIRequest } from '../types.js';
import { readRequest } from './request.js';

const user = { role: 'user', content: 'Hi' };
const read = (more: object) => readRequest({ messages: [user], ...more } as unknown as OpenAIRequest);
const said = (...messages: object[]) => read({ messages }).messages;
function refusal(more: object): unknown {
  try {
    return read(more);
  } catch (error) {
    return error;
  }
}

describe('values that ask for nothing', () => {
  const NEUTRAL: object[] = [
    { n: 1 },
    { tools: [], tool_choice: 'none' },
    { tools: [], tool_choice: 'auto', parallel_tool_calls: true },
    { functions: [], function_call: 'auto' },
    { response_format: { type: 'text' } },
    { logit_bias: {} },
    { logit_bias: { 50256: 0 } },
    { logprobs: false, top_logprobs: 0 },
    { frequency_penalty: 0, presence_penalty: 0.0 },
    { stop: [] },
    { modalities: ['text'] },
    { reasoning_effort: 'medium', verbosity: 'medium' },
    {
      store: true,
      user: 'me',
      metadata: { a: 'b' },
      service_tier: 'auto',
      safety_identifier: 'x',
      prediction: { type: 'content', content: 'x' },
    },
    { prompt_cache_key: 'x', prompt_cache_retention: '24h', prompt_cache_options: { mode: 'implicit' } },
    { stream: false, stream_options: { include_usage: false } },
    { a_field_to_come: false, another: [], third: {} },
  ];
  it.each(NEUTRAL)('%j', (more) => expect(read(more)).toMatchObject({ messages: [user], options: {} }));

  it.each([
    ...[
      'stream',
      'stream_options',
      'max_tokens',
      'max_completion_tokens',
      'temperature',
      'top_p',
      'stop',
      'seed',
      'top_k',
      'min_p',
      'n',
      'tools',
    ],
    ...[
      'functions',
      'tool_choice',
      'function_call',
      'response_format',
      'logit_bias',
      'logprobs',
      'top_logprobs',
      'frequency_penalty',
      'audio',
    ],
    ...[
      'presence_penalty',
      'modalities',
      'reasoning_effort',
      'verbosity',
      'moderation',
      'web_search_options',
      'metadata',
      'store',
      'user',
      'model',
    ],
    ...[
      'parallel_tool_calls',
      'prediction',
      'service_tier',
      'safety_identifier',
      'prompt_cache_key',
      'prompt_cache_retention',
      'repetition_penalty',
    ],
  ])('%s: null', (name) => expect(read({ [name]: null })).toEqual({ messages: [user], options: {}, includeUsage: false }));
});

describe('options', () => {
  it.each([
    [{ max_tokens: 9 }, { maxTokens: 9 }],
    [{ max_tokens: 9, max_completion_tokens: 7 }, { maxTokens: 7 }],
    [{ max_tokens: 9, max_completion_tokens: null }, { maxTokens: 9 }],
    [
      { temperature: 0.5, top_p: 0.9 },
      { temperature: 0.5, topP: 0.9 },
    ],
    [{ temperature: 1, top_p: 0 }, { temperature: 0 }],
    [{ stop: 'x' }, { stop: 'x' }],
    [{ stop: ['x', 'y'] }, { stop: ['x', 'y'] }],
    [{ seed: 3 }, { seed: 3 }],
    [{ seed: -1 }, { seed: 2 ** 53 - 1 }],
    [
      { top_k: 5, min_p: 0.1, repetition_penalty: 1.1 },
      { topK: 5, minP: 0.1, repetitionPenalty: 1.1 },
    ],
  ])('%j', (more, options) => expect(read(more).options).toEqual(options));
});

describe('requests that cannot be met are refused by the name that the caller wrote', () => {
  it.each([
    [{ n: 2 }, 'n'],
    [{ tools: [{ type: 'function', function: { name: 'f' } }] }, 'tools'],
    [{ functions: [{ name: 'f' }] }, 'functions'],
    [{ tool_choice: 'required' }, 'tool_choice'],
    [{ tool_choice: { type: 'function', function: { name: 'f' } } }, 'tool_choice'],
    [{ response_format: { type: 'xml' } }, 'response_format'],
    [{ response_format: { type: 'json_schema', json_schema: { name: 'x' } } }, 'response_format'],
    [{ response_format: { type: 'regex' } }, 'response_format'],
    [{ logit_bias: { 50256: -100 } }, 'logit_bias'],
    [{ logprobs: true }, 'logprobs'],
    [{ top_logprobs: 3 }, 'top_logprobs'],
    [{ frequency_penalty: 1 }, 'frequency_penalty'],
    [{ presence_penalty: -1 }, 'presence_penalty'],
    [{ modalities: ['text', 'audio'] }, 'modalities'],
    [{ audio: { voice: 'alloy', format: 'wav' } }, 'audio'],
    [{ reasoning_effort: 'high' }, 'reasoning_effort'],
    [{ web_search_options: {} }, 'web_search_options'],
    [{ guided_regex: 'a+' }, 'guided_regex'],
    [{ top_p: 1.5 }, 'top_p'],
    [{ top_p: 'much' }, 'top_p'],
    [{ temperature: -1 }, 'temperature'],
    [{ max_completion_tokens: 1.5 }, 'max_completion_tokens'],
    [{ max_tokens: -1, max_completion_tokens: 5 }, 'max_tokens'],
    [{ stop: ['x', ''] }, 'stop'],
    [{ seed: 0.5 }, 'seed'],
    [{ min_p: 2 }, 'min_p'],
    [{ messages: [] }, 'messages'],
    [{ messages: 'Hi' }, 'messages'],
    [{ messages: [user, null] }, 'messages[1]'],
    [{ messages: [{ content: 'x' }] }, 'messages[0].role'],
    [{ messages: [{ role: 'user', content: null }] }, 'messages[0].content'],
    [{ messages: [{ role: 'user', content: 5 }] }, 'messages[0].content'],
    [
      {
        messages: [
          user,
          {
            role: 'user',
            content: [
              { type: 'text', text: 'a' },
              { type: 'image_url', image_url: { url: 'data:' } },
            ],
          },
        ],
      },
      'messages[1].content[1].image_url',
    ],
    [
      { messages: [{ role: 'user', content: [{ type: 'input_audio', input_audio: { data: '', format: 'wav' } }] }] },
      'messages[0].content[0].input_audio',
    ],
    [{ messages: [{ role: 'user', content: [{ type: 'file', file: { file_id: 'x' } }] }] }, 'messages[0].content[0].file'],
    [{ messages: [{ role: 'user', content: [{ type: 'video' }] }] }, 'messages[0].content[0].type'],
    [{ messages: [{ role: 'user', content: [{ type: 'text' }] }] }, 'messages[0].content[0].text'],
    [{ messages: [{ role: 'assistant', audio: { id: 'x' } }] }, 'messages[0].audio'],
    [{ messages: [{ role: 'assistant', content: null, function_call: { name: 'f', arguments: '' } }] }, 'messages[0].function_call'],
    [
      { messages: [{ role: 'assistant', tool_calls: [{ id: 'x', type: 'custom', custom: { name: 'f', input: '' } }] }] },
      'messages[0].tool_calls[0].type',
    ],
    [{ messages: [{ role: 'assistant', tool_calls: [{ id: 'x', type: 'function' }] }] }, 'messages[0].tool_calls[0].function'],
  ])('%j', (more, field) => {
    expect(refusal(more)).toMatchObject({ code: 'invalid-argument', details: { field } });
    expect((refusal(more) as Error).message.startsWith(`${field} is `)).toBe(true);
  });
});

describe('messages', () => {
  it.each(['system', 'developer', 'user', 'assistant', 'tool'])('of the role %s may be in parts', (role) => {
    const content = [
      { type: 'text', text: 'Hel' },
      { type: 'text', text: 'lo' },
    ];
    expect(said({ role, content })).toEqual([{ role, content: 'Hello' }]);
  });

  it('of an assistant may say nothing, or refuse', () => {
    expect(said(user, { role: 'assistant', content: null, refusal: null, annotations: [], audio: null })).toEqual([
      user,
      { role: 'assistant', content: '' },
    ]);
    expect(said({ role: 'assistant' })).toEqual([{ role: 'assistant', content: '' }]);
    expect(said({ role: 'assistant', content: null, refusal: 'No.' })).toEqual([{ role: 'assistant', content: 'No.' }]);
    expect(said({ role: 'assistant', content: [{ type: 'refusal', refusal: 'No.' }] })).toEqual([{ role: 'assistant', content: 'No.' }]);
  });

  it('keep tool calls, their arguments as templates want them, and what tools answered', () => {
    const call = (json: unknown) => ({ id: 'call_1', type: 'function', function: { name: 'now', arguments: json } });
    const answer = { role: 'tool', tool_call_id: 'call_1', content: 'noon' };
    const tool_calls = [call('{"zone": "UTC"}'), call(''), call('[1'), call({ a: 1 })];
    expect(said(user, { role: 'assistant', content: null, tool_calls }, answer)).toEqual([
      user,
      { role: 'assistant', content: null, tool_calls: [call({ zone: 'UTC' }), call({}), call('[1'), call({ a: 1 })] },
      answer,
    ]);
    expect(said({ role: 'assistant', tool_calls })).toMatchObject([{ content: null }]);
    expect(said({ role: 'assistant', content: '', tool_calls })).toMatchObject([{ content: '' }]);
  });

  it('keep the digits of numbers in the arguments of calls', () => {
    const call = (json: unknown) => ({ type: 'function', function: { name: 'f', arguments: json } });
    const argumentsOf = (json: string) => {
      const [message] = said({ role: 'assistant', tool_calls: [call(json)] });
      return (message!.tool_calls![0] as ReturnType<typeof call>).function.arguments;
    };
    const number = (digits: string) => ({ '\u0000number': digits });
    expect(
      argumentsOf('{"id": 123456789012345678901, "x": [1.0, -0, 1e5, 2.50], "plain": [0, -7, 0.1, 1.5e-7, 1e+21], "s": "1.0 \\"1.0"}'),
    ).toEqual({
      id: number('123456789012345678901'),
      x: ['1.0', '-0', '1e5', '2.50'].map(number),
      plain: [0, -7, 0.1, 1.5e-7, 1e21],
      s: '1.0 "1.0',
    });
    expect(argumentsOf('{"id": 12345678901234567890123, }')).toBe('{"id": 12345678901234567890123, }');
    const beyond = `{"id": ${2n ** 128n}}`;
    expect(() => argumentsOf(beyond)).toThrow(
      'messages[0].tool_calls[0].function.arguments: the integer 340282366920938463463374607431768211456 has more than 128 bits',
    );
  });

  it('keep names and thoughts', () => {
    const [one, two] = said({ ...user, name: 'Ada' }, { role: 'assistant', content: 'x', reasoning_content: 'hm', tool_calls: [] });
    expect([one, two]).toEqual([
      { ...user, name: 'Ada' },
      { role: 'assistant', content: 'x', reasoning_content: 'hm' },
    ]);
  });
});
