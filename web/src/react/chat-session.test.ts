import { expect, test, vi } from 'vitest';
import { HaikuqError } from '../errors.js';
import { type ChatMessage, createChatSession, type NewMessage } from './chat-session.js';
import { settled, writtenByTest } from './testing/answers.js';
import { manualFrames } from './testing/frames.js';

const SYSTEM: NewMessage = { role: 'system', content: 'Be brief.' };

function start(initial: NewMessage[] = []) {
  const frames = manualFrames();
  const backend = writtenByTest();
  const onError = vi.fn();
  const session = createChatSession(initial, { backend, onError });
  return { frames, backend, onError, session };
}

function textOf(messages: readonly ChatMessage[]): string[] {
  return messages.map(({ role, content, status }) => `${role} ${content} ${status}`);
}

test('a message is sent, its answer shown frame by frame and then whole', async () => {
  const { frames, backend, session } = start([SYSTEM]);
  const sent = session.send('Hello');
  await settled();
  expect(session.snapshot().status).toBe('waiting');
  expect(textOf(session.snapshot().messages)).toEqual(['system Be brief. done', 'user Hello done', 'assistant  waiting']);
  expect(backend.last.messages).toEqual([SYSTEM, { role: 'user', content: 'Hello' }]);

  await backend.last.write('Hi');
  await backend.last.write(' there');
  expect(session.snapshot().messages.at(-1)).toMatchObject({ content: '', status: 'waiting' });
  frames.draw();
  expect(session.snapshot().messages.at(-1)).toMatchObject({ content: 'Hi there', status: 'streaming' });
  expect(session.snapshot().status).toBe('streaming');

  await backend.last.write('!');
  await backend.last.finish();
  const result = await sent;
  expect(result).toMatchObject({ text: 'Hi there!', finish: 'stop' });
  expect(session.snapshot()).toMatchObject({ status: 'idle', error: undefined, lastResult: result });
  expect(session.snapshot().messages.at(-1)).toMatchObject({ content: 'Hi there!', status: 'done', result });
  expect(frames.requested).toBe(0);
});

test('a storm of tokens is one change a frame', async () => {
  const { frames, backend, session } = start();
  void session.send('Hello');
  await settled();
  const onChange = vi.fn();
  session.subscribe(onChange);
  for (let frame = 1; frame <= 3; frame++) {
    for (let token = 0; token < 200; token++) void backend.last.write('x');
    await settled();
    frames.draw();
    expect(onChange).toHaveBeenCalledTimes(frame);
    expect(session.snapshot().messages.at(-1)?.content).toHaveLength(frame * 200);
  }
});

test('messages that do not change stay the same objects', async () => {
  const { frames, backend, session } = start([SYSTEM]);
  void session.send('Hello');
  await settled();
  const before = session.snapshot().messages;
  await backend.last.write('x');
  frames.draw();
  const after = session.snapshot().messages;
  expect(after[0]).toBe(before[0]);
  expect(after[1]).toBe(before[1]);
  expect(after[2]).not.toBe(before[2]);
  expect(after.map(({ id }) => id)).toEqual(before.map(({ id }) => id));
});

test('stop shows what was written at once, and what is written after it never', async () => {
  const { frames, backend, session } = start();
  const sent = session.send('Hello');
  await settled();
  await backend.last.write('half');
  const answer = backend.last;
  // On its way when the user stops.
  void answer.write(' late');
  session.stop();
  expect(session.snapshot()).toMatchObject({ status: 'idle', error: undefined });
  expect(session.snapshot().messages.at(-1)).toMatchObject({ content: 'half', status: 'cancelled' });
  expect(answer.aborted).toBe(true);
  await answer.write(' and more');
  frames.draw();
  expect(await sent).toMatchObject({ finish: 'cancelled' });
  expect(session.snapshot().messages.at(-1)).toMatchObject({ content: 'half', result: { finish: 'cancelled' } });
  expect(session.snapshot().lastResult?.finish).toBe('cancelled');
});

test('sending while an answer is written stops that answer, and only it', async () => {
  const { backend, session } = start();
  void session.send('One');
  await settled();
  await backend.last.write('half');
  const second = session.send('Two');
  await settled();
  expect(backend.answers[0]?.aborted).toBe(true);
  expect(backend.answers[1]?.aborted).toBe(false);
  expect(backend.last.messages.map(({ content }) => content)).toEqual(['One', 'half', 'Two']);
  await backend.last.write('whole');
  await backend.last.finish();
  await second;
  expect(textOf(session.snapshot().messages)).toEqual([
    'user One done',
    'assistant half cancelled',
    'user Two done',
    'assistant whole done',
  ]);
});

test('an error keeps what was written and is told once', async () => {
  const { backend, onError, session } = start();
  const sent = session.send('Hello');
  await settled();
  await backend.last.write('half');
  await backend.last.fail(new HaikuqError('network', 'gone'));
  expect(await sent).toBeUndefined();
  expect(session.snapshot()).toMatchObject({ status: 'error', error: { code: 'network' } });
  expect(session.snapshot().messages.at(-1)).toMatchObject({ content: 'half', status: 'error', error: { code: 'network' } });
  expect(onError).toHaveBeenCalledExactlyOnceWith(session.snapshot().error);
});

test("an error after a stop is nobody's", async () => {
  const { backend, onError, session } = start();
  const sent = session.send('Hello');
  await settled();
  const answer = backend.last;
  session.reset();
  await answer.fail(new HaikuqError('network', 'gone'));
  await sent;
  expect(onError).not.toHaveBeenCalled();
  expect(session.snapshot()).toEqual({ messages: [], status: 'idle', error: undefined, lastResult: undefined });
});

test('a backend that throws at once is an error like any other', async () => {
  const session = createChatSession([], {
    backend: {
      chat: () => {
        throw new HaikuqError('context-overflow', 'too long');
      },
    },
  });
  expect(await session.send('Hello')).toBeUndefined();
  expect(session.snapshot()).toMatchObject({ status: 'error', error: { code: 'context-overflow' } });
});

test('a signal among the options stops without an error', async () => {
  const controller = new AbortController();
  const backend = writtenByTest();
  const onError = vi.fn();
  const session = createChatSession([], { backend, onError, options: { signal: controller.signal, temperature: 0.5 } });
  const sent = session.send('Hello');
  await settled();
  expect(backend.last.options.temperature).toBe(0.5);
  await backend.last.write('half');
  controller.abort();
  expect(await sent).toMatchObject({ finish: 'cancelled' });
  expect(session.snapshot()).toMatchObject({ status: 'idle', error: undefined });
  expect(session.snapshot().messages.at(-1)).toMatchObject({ content: 'half', status: 'cancelled' });
  expect(onError).not.toHaveBeenCalled();
});

/** A conversation of two turns that are over. */
const TURNS: NewMessage[] = [
  { id: 's', ...SYSTEM },
  { id: 'u1', role: 'user', content: 'One' },
  { id: 'a1', role: 'assistant', content: 'First' },
  { id: 'u2', role: 'user', content: 'Two' },
  { id: 'a2', role: 'assistant', content: 'Second' },
];

test.each([
  [undefined, ['s', 'u1', 'a1', 'u2']],
  ['a2', ['s', 'u1', 'a1', 'u2']],
  ['u2', ['s', 'u1', 'a1', 'u2']],
  ['a1', ['s', 'u1']],
  ['u1', ['s', 'u1']],
])('regenerate %s answers %j', async (id, kept) => {
  const { backend, session } = start(TURNS);
  const done = session.regenerate(id);
  await settled();
  const { messages } = session.snapshot();
  expect(messages.slice(0, -1).map(({ id }) => id)).toEqual(kept);
  expect(messages.at(-1)).toMatchObject({ role: 'assistant', content: '', status: 'waiting' });
  expect(backend.last.messages).toHaveLength(kept.length);
  await backend.last.finish();
  await done;
});

test("edit of a user's message drops what came after it and answers it", async () => {
  const { backend, session } = start(TURNS);
  void session.edit('u1', 'Uno');
  await settled();
  expect(backend.last.messages.map(({ content }) => content)).toEqual(['Be brief.', 'Uno']);
  expect(
    session
      .snapshot()
      .messages.map(({ id }) => id)
      .slice(0, 2),
  ).toEqual(['s', 'u1']);
});

test('edit of another message changes its text and nothing else', async () => {
  const { backend, session } = start(TURNS);
  await session.edit('s', 'Be long.');
  expect(session.snapshot().messages.map(({ content }) => content)).toEqual(['Be long.', 'One', 'First', 'Two', 'Second']);
  expect(backend.answers).toEqual([]);
});

test('calls that make no sense reject, and change nothing', async () => {
  const { session } = start([]);
  const invalid = { code: 'invalid-argument' };
  await expect(session.regenerate()).rejects.toMatchObject(invalid);
  await expect(session.regenerate('nobody')).rejects.toMatchObject(invalid);
  await expect(session.edit('nobody', 'x')).rejects.toMatchObject(invalid);
  session.configure({ backend: undefined });
  await expect(session.send('Hello')).rejects.toMatchObject(invalid);
  expect(session.snapshot().messages).toEqual([]);
});

test('a listener that is told of a new message may stop its answer at once', async () => {
  const { backend, session } = start();
  session.subscribe(() => {
    if (session.snapshot().status === 'waiting') session.stop();
  });
  expect(await session.send('Hello')).toMatchObject({ finish: 'cancelled' });
  expect(backend.last.aborted).toBe(true);
  expect(session.snapshot()).toMatchObject({ status: 'idle' });
});

test('setMessages puts another conversation in place, also made from the present one', async () => {
  const { backend, session } = start(TURNS);
  void session.regenerate();
  await settled();
  session.setMessages((messages) => messages.slice(0, 2));
  expect(backend.last.aborted).toBe(true);
  expect(session.snapshot().messages.map(({ id }) => id)).toEqual(['s', 'u1']);
  session.setMessages([
    { role: 'user', content: 'x' },
    { role: 'assistant', content: 'y', status: 'error' },
  ]);
  const [x, y] = session.snapshot().messages;
  expect(x?.id).not.toBe(y?.id);
  expect(y?.status).toBe('error');
});

test('reset goes back to the initial messages, whose ids are the same on a server', () => {
  const { session } = start([SYSTEM, { role: 'assistant', content: 'Hello!' }]);
  expect(session.snapshot().messages.map(({ id }) => id)).toEqual(['initial-0', 'initial-1']);
  session.setMessages([]);
  session.reset();
  expect(session.snapshot().messages.map(({ content }) => content)).toEqual(['Be brief.', 'Hello!']);
});

test('where there are no frames a timer shows the text', async () => {
  const backend = writtenByTest();
  const session = createChatSession([], { backend });
  void session.send('Hello');
  await settled();
  const shown = new Promise<void>((resolve) => session.subscribe(resolve));
  await backend.last.write('x');
  await shown;
  expect(session.snapshot().messages.at(-1)).toMatchObject({ content: 'x', status: 'streaming' });
});
