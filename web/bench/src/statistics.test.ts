import { expect, it } from 'vitest';
import { spreadOf } from './statistics.ts';

it.each([
  [[3, 1, 2], { median: 2, min: 1, max: 3 }],
  [[4, 1, 2, 3], { median: 2.5, min: 1, max: 4 }],
  [[10, 9], { median: 9.5, min: 9, max: 10 }],
  [[7], { median: 7, min: 7, max: 7 }],
  [[], null],
])('of %j', (values, expected) => expect(spreadOf(values)).toEqual(expected));

it('leaves its input as it is', () => {
  const values = [2, 1];
  spreadOf(values);
  expect(values).toEqual([2, 1]);
});
