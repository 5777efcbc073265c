import { describe, expect, it } from 'vitest';
import { type ContextOptions, fitContext } from './context.js';
import type { Message } from './types.js';

/** Ten tokens a message. */
const encode = (messages: Message[]) => new Uint32Array(messages.length * 10);
const conversation = (roles: string): Message[] =>
  [...roles].map((r) => ({ role: { s: 'system', u: 'user', a: 'assistant' }[r] as string, content: '' }));

function fit(roles: string, options: Partial<ContextOptions>) {
  return fitContext(conversation(roles), encode, {
    contextSize: 100,
    overflow: 'trim',
    reserve: undefined,
    maxTokens: undefined,
    ...options,
  });
}

describe('fitContext', () => {
  it('leaves alone what fits with a quarter to spare', () => {
    expect(fit('suauaua', {})).toEqual({ prompt: new Uint32Array(70) });
  });

  it('drops the oldest turns, as few as it takes, and never the system message', () => {
    expect(fit('suauauau', {})).toEqual({
      prompt: new Uint32Array(60),
      trimmed: { droppedMessages: [1, 2], promptTokensBefore: 80, promptTokensAfter: 60 },
    });
    expect(fit('suauauau', { reserve: 60 }).trimmed?.droppedMessages).toEqual([1, 2, 3, 4]);
  });

  it('keeps system messages wherever they are, and answers with their questions', () => {
    expect(fit('uaasuau', { reserve: 60 }).trimmed?.droppedMessages).toEqual([0, 1, 2]);
    expect(fit('auau', { reserve: 75 }).trimmed?.droppedMessages).toEqual([0, 1, 2]);
  });

  it('reserves maxTokens, but never more than half the context', () => {
    expect(fit('suauau', { maxTokens: 40 }).trimmed).toBeUndefined();
    expect(fit('suauau', { maxTokens: 4000 }).trimmed?.droppedMessages).toEqual([1, 2]);
    expect(fit('suauau', { maxTokens: 4000, reserve: 40 }).trimmed).toBeUndefined();
  });

  it('gives the newest turn what room there is, and refuses it where there is none', () => {
    expect(fit('su', { reserve: 90 })).toEqual({ prompt: new Uint32Array(20) });
    expect(fit('suau', { reserve: 90 }).trimmed?.promptTokensAfter).toBe(20);
    expect(() => fit('suau', { contextSize: 15 })).toThrow(
      expect.objectContaining({ code: 'context-overflow', details: { needed: 20, available: 15 } }),
    );
  });

  it('refuses where the caller prefers, counting a reserve that was asked for', () => {
    expect(fit('suauauaua', { overflow: 'refuse' }).prompt).toHaveLength(90);
    expect(() => fit('suauauaua', { overflow: 'refuse', reserve: 20 })).toThrow(
      expect.objectContaining({ code: 'context-overflow', details: { needed: 110, available: 100 } }),
    );
  });

  it('drops four turns at a time from a long conversation, so that the next turns begin alike', () => {
    const dropped = (turns: number) =>
      fit(`s${'ua'.repeat(turns)}u`, { contextSize: 400, reserve: 0 }).trimmed?.droppedMessages.length ?? 0;
    expect([19, 20, 21, 22, 23, 24].map(dropped)).toEqual([0, 8, 8, 8, 8, 16]);
  });

  it('finds the fewest turns for every length', () => {
    for (let turns = 1; turns < 40; turns++) {
      const { prompt, trimmed } = fit(`s${'ua'.repeat(turns)}u`, { reserve: 0 });
      const expected = Math.max(0, Math.ceil((turns * 20 + 20 - 100) / 20));
      expect(trimmed?.droppedMessages.length ?? 0).toBe(2 * expected);
      expect(prompt.length).toBeLessThanOrEqual(100);
    }
  });
});
