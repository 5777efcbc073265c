import { expect, test } from 'vitest';
import { HaikuqError } from '../errors.js';
import { makeTextStream, plainResult } from './stream.js';
import { collect, failure, scripted } from './testing/backends.js';

const NO_TIME = { timeToFirstTokenMs: 0, decodeMs: 0, tokensPerSecond: 0 };

test('iteration gives the pieces, result and text() the whole', async () => {
  const stream = scripted('local', ['a', 'b', 'c']).chat([]);
  expect(await collect(stream)).toEqual(['a', 'b', 'c']);
  expect(await stream.text()).toBe('abc');
  expect((await stream.result).finish).toBe('stop');
});

test('the result settles without iteration, and the pieces wait for a late reader', async () => {
  const stream = scripted('local', ['a', 'b']).chat([]);
  expect((await stream.result).text).toBe('ab');
  expect(await collect(stream)).toEqual(['a', 'b']);
});

test('a second iteration is refused', async () => {
  const stream = scripted('local', ['a']).chat([]);
  await collect(stream);
  await expect(collect(stream)).rejects.toMatchObject({ code: 'invalid-argument' });
});

test('abort() ends the iteration without an error; the result says cancelled and keeps the text', async () => {
  const stream = scripted('local', ['a', 'b'], { hangs: true }).chat([]);
  const pieces: string[] = [];
  for await (const piece of stream) {
    pieces.push(piece);
    if (piece === 'b') stream.abort();
  }
  expect(pieces).toEqual(['a', 'b']);
  expect(await stream.result).toMatchObject({ finish: 'cancelled', text: 'ab' });
});

test("the caller's signal ends the iteration with aborted; the result says cancelled", async () => {
  const controller = new AbortController();
  const stream = scripted('local', ['a'], { hangs: true }).chat([], { signal: controller.signal });
  const pieces: string[] = [];
  const reading = (async () => {
    for await (const piece of stream) {
      pieces.push(piece);
      controller.abort(new Error('enough'));
    }
  })();
  await expect(reading).rejects.toMatchObject({ code: 'aborted', cause: new Error('enough') });
  expect(pieces).toEqual(['a']);
  expect(await stream.result).toMatchObject({ finish: 'cancelled', text: 'a' });
});

test('a signal that is aborted already is seen by the writer', async () => {
  const stream = makeTextStream(
    async (_emit, signal) => plainResult('cloud', '', signal.aborted ? 'cancelled' : 'stop', NO_TIME),
    AbortSignal.abort(),
  );
  await expect(collect(stream)).rejects.toMatchObject({ code: 'aborted' });
  expect((await stream.result).finish).toBe('cancelled');
});

test('leaving the iteration early aborts the writing', async () => {
  const stream = scripted('local', ['a'], { hangs: true }).chat([]);
  for await (const _ of stream) break;
  expect((await stream.result).finish).toBe('cancelled');
});

test('an error comes after all that was written, with the text so far', async () => {
  const stream = scripted('cloud', ['a', 'b'], { error: failure('network') }).chat([]);
  await stream.result.catch(() => {});
  const pieces: string[] = [];
  const reading = (async () => {
    for await (const piece of stream) pieces.push(piece);
  })();
  await expect(reading).rejects.toMatchObject({ code: 'network', details: { partialText: 'ab' } });
  expect(pieces).toEqual(['a', 'b']);
  await expect(stream.result).rejects.toMatchObject({ code: 'network' });
});

test('an error before any text is given on as it is; a foreign one becomes internal', async () => {
  const error = failure('out-of-memory');
  await expect(scripted('local', [], { error }).chat([]).result).rejects.toBe(error);
  const foreign = new RangeError('odd');
  const rejected = scripted('local', [], { error: foreign }).chat([]).result;
  await expect(rejected).rejects.toBeInstanceOf(HaikuqError);
  await expect(rejected).rejects.toMatchObject({ code: 'internal', message: 'RangeError: odd', cause: foreign });
});
