import { expect, it } from 'vitest';
import type { AssistantTurn } from '../data/conversation.ts';
import { noticesOf, statsOf } from './assistant-message.tsx';

const turn = (change: Partial<AssistantTurn>): AssistantTurn => ({ role: 'assistant', id: '1', text: 'x', model: 'm', ...change });
const usage = { promptTokens: 1200, reusedTokens: 1100, completionTokens: 40 };

it('says how fast an answer was and how much of the prompt was known', () => {
  const timings = { timeToFirstTokenMs: 386, decodeMs: 850, tokensPerSecond: 45.88 };
  expect(statsOf(turn({ usage, timings }))).toEqual([
    '45.9 tokens/s',
    'first after 386 ms',
    '40 tokens',
    'prompt of 1,200, 1,100 of them reused',
  ]);
});

it('claims no speed for a single token, and nothing at all for none', () => {
  const timings = { timeToFirstTokenMs: 386, decodeMs: 0, tokensPerSecond: 0 };
  expect(statsOf(turn({ usage: { ...usage, completionTokens: 1 }, timings }))[0]).toBe('first after 386 ms');
  expect(statsOf(turn({ usage: { ...usage, completionTokens: 0 }, timings }))).toEqual([]);
});

it('tells what the model did not see', () => {
  const trimmed = { droppedMessages: [1, 2], promptTokensBefore: 2100, promptTokensAfter: 1400 };
  expect(noticesOf(turn({ trimmed }))).toEqual([
    'The conversation no longer fits: the model did not see its 2 oldest messages (2,100 tokens, cut to 1,400).',
  ]);
});

it('tells of a device that was lost meanwhile, and why an answer ended early', () => {
  expect(noticesOf(turn({ recoveries: 1, finish: 'length' }))).toHaveLength(2);
  expect(noticesOf(turn({ recoveries: 0, finish: 'stop' }))).toEqual([]);
});
