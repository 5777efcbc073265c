import { expect, it } from 'vitest';
import { generationOptions, parseField, parseSettings, samplingFields } from './settings.ts';

const field = (key: string) => samplingFields.find((one) => one.key === key)!;

it.each([
  ['temperature', '0.7', 0.7],
  ['temperature', ' ', undefined],
  ['topK', '0', 0],
  ['seed', '4294967295', 4_294_967_295],
])('%s takes %j', (key, typed, value) => expect(parseField(field(key), typed)).toBe(value));

it.each([
  ['temperature', '-1', 'Temperature must be from 0 to 5'],
  ['temperature', 'warm', 'Temperature must be a number'],
  ['topK', '1.5', 'Top-k must be a whole number'],
  ['maxTokens', '0', 'Longest answer must be from 1 to 1000000'],
  ['topP', '0', 'Top-p must be from 0.01 to 1'],
])('%s refuses %j', (key, typed, words) => expect(parseField(field(key), typed)).toBe(words));

it('drops what was kept and is of no use', () => {
  expect(parseSettings({ system: 'Be brief.', temperature: 0.5, topP: 7, topK: '3', other: 1 })).toEqual({
    system: 'Be brief.',
    temperature: 0.5,
  });
  for (const kept of [null, 'text', 3, []]) expect(parseSettings(kept)).toEqual({ system: '' });
});

it('asks the model for what was set and nothing else', () => {
  expect(generationOptions({ system: 'x', topK: 0, seed: 3 })).toEqual({ topK: 0, seed: 3 });
});
