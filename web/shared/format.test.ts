import { expect, it } from 'vitest';
import { formatBytes, formatMilliseconds, formatParameters, formatRate, formatRemaining } from './format.ts';

it.each([
  [0, '0 B'],
  [999, '999 B'],
  [1000, '1 kB'],
  [999_499, '999 kB'],
  [999_600, '1 MB'],
  [4_626_432, '4.6 MB'],
  [1_926_432_000, '1.9 GB'],
  [2.5e15, '2,500 TB'],
])('%d bytes read %s', (bytes, text) => expect(formatBytes(bytes)).toBe(text));

it.each([
  [0.2, '1 s'],
  [59.1, '1 min'],
  [60, '1 min'],
  [61, '2 min'],
  [3900, '1 h 5 min'],
])('%d seconds left read %s', (seconds, text) => expect(formatRemaining(seconds)).toBe(text));

it.each([
  [12.4, '12 ms'],
  [1234, '1.23 s'],
  [12_340, '12.3 s'],
])('%d ms read %s', (milliseconds, text) => expect(formatMilliseconds(milliseconds)).toBe(text));

it('keeps three digits of a rate', () => {
  expect([5.036, 41.37, 1520.4].map(formatRate)).toEqual(['5.04', '41.4', '1,520']);
});

it('shortens numbers of parameters', () => {
  expect([7_344_384, 3_210_000_000].map(formatParameters)).toEqual(['7.3M', '3.2B']);
});
