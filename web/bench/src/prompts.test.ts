import { describe, expect, it } from 'vitest';
import { promptMaker, seededRandom } from './prompts.ts';

/** Tokenizers with what real ones do: a token a word, words in pieces, a token at the start of every text. */
const tokenizers: Record<string, (text: string) => number> = {
  'a token a word': (text) => text.split(' ').length,
  'pieces of at most three letters': (text) => text.split(' ').reduce((sum, word) => sum + Math.ceil((word.length || 1) / 3), 0),
  'a start token': (text) => 1 + text.split(' ').length,
};
const maker = (count: (text: string) => number, seed = 1) => promptMaker({ countTokens: async (text) => count(text as string) }, seed);

describe.each(Object.entries(tokenizers))('with %s', (_, count) => {
  it.each([4, 16, 128, 513])('a prompt of %d tokens has that many', async (tokens) => {
    expect(count(await maker(count)(tokens))).toBe(tokens);
  });
});

it('comes as near as a tokenizer allows, without exceeding the length', async () => {
  const evenOnly = (text: string) => 2 * text.split(' ').length;
  expect(evenOnly(await maker(evenOnly)(9))).toBe(8);
});

it('begins every prompt with another word', async () => {
  const make = maker(tokenizers['a token a word']!);
  const first: string[] = [];
  for (let index = 0; index < 50; index += 1) first.push((await make(4)).split(' ', 1)[0]!);
  expect(new Set(first).size).toBe(50);
});

it('makes the same prompts from the same seed, and others from another', async () => {
  const count = tokenizers['a token a word']!;
  const [one, same, other] = await Promise.all([maker(count, 5)(32), maker(count, 5)(32), maker(count, 6)(32)]);
  expect(same).toBe(one);
  expect(other).not.toBe(one);
});

it('draws numbers from 0 to below 1, evenly enough', () => {
  const random = seededRandom(1);
  const values = Array.from({ length: 10_000 }, random);
  expect(Math.min(...values)).toBeGreaterThanOrEqual(0);
  expect(Math.max(...values)).toBeLessThan(1);
  expect(values.reduce((sum, value) => sum + value, 0) / values.length).toBeCloseTo(0.5, 1);
});
