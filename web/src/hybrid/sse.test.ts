import { expect, test } from 'vitest';
import { readEvents } from './sse.js';

const NEVER = new AbortController().signal;

function bodyOf(chunks: Uint8Array[], onCancel?: () => void): ReadableStream<Uint8Array> {
  return new ReadableStream({
    pull(controller) {
      const chunk = chunks.shift();
      if (chunk) controller.enqueue(chunk);
      else controller.close();
    },
    cancel: () => onCancel?.(),
  });
}

async function dataOf(chunks: Uint8Array[]): Promise<string[]> {
  const data: string[] = [];
  for await (const event of readEvents(bodyOf(chunks), NEVER)) data.push(event.data);
  return data;
}

const STREAM = new TextEncoder().encode('\uFEFF: hello\r\ndata: früh 🌸\r\n\r\nevent: x\ndata: 雪\ndata: zwei\nid: 3\n\ndata:last\r\r');
const DATA = ['früh 🌸', '雪\nzwei', 'last'];

test('events are the same wherever the stream is cut in two', async () => {
  for (let cut = 0; cut <= STREAM.length; cut++) {
    expect(await dataOf([STREAM.subarray(0, cut), STREAM.subarray(cut)]), `cut at byte ${cut}`).toEqual(DATA);
  }
});

test('events are the same byte by byte', async () => {
  expect(await dataOf([...STREAM].map((byte) => Uint8Array.of(byte)))).toEqual(DATA);
});

test('an event that the end cuts off is dropped', async () => {
  expect(await dataOf([new TextEncoder().encode('data: one\n\ndata: tw')])).toEqual(['one']);
});

test('an endless line is refused before it fills the memory, after the events that came before it', async () => {
  const line = new TextEncoder().encode('x'.repeat(1 << 19));
  const body = bodyOf([new TextEncoder().encode('data: one\n\ndata: '), line, line, line]);
  const data: string[] = [];
  const reading = (async () => {
    for await (const event of readEvents(body, NEVER)) data.push(event.data);
  })();
  await expect(reading).rejects.toMatchObject({ code: 'cloud' });
  expect(data).toEqual(['one']);
});

test('leaving the iteration cancels the body; bytes without events are noticed', async () => {
  let cancelled = false;
  let noticed = 0;
  const chunks = [': comment\n', 'data: one\n\n', 'data: two\n\n'].map((text) => new TextEncoder().encode(text));
  for await (const event of readEvents(
    bodyOf(chunks, () => (cancelled = true)),
    NEVER,
    () => noticed++,
  )) {
    expect(event.data).toBe('one');
    break;
  }
  expect(noticed).toBe(2);
  expect(cancelled).toBe(true);
});

test('abort ends the reading of a body that does not heed it', async () => {
  const controller = new AbortController();
  const body = new ReadableStream<Uint8Array>({ start: (stream) => stream.enqueue(new TextEncoder().encode('data: one\n\n')) });
  const reading = (async () => {
    for await (const _ of readEvents(body, controller.signal)) controller.abort(new Error('enough'));
  })();
  await expect(reading).rejects.toThrow('enough');
});
