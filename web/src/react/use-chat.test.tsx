// @vitest-environment happy-dom
import { act } from 'react';
import { renderToString } from 'react-dom/server';
import { expect, test, vi } from 'vitest';
import { HaikuqError } from '../errors.js';
import { writtenByTest } from './testing/answers.js';
import { manualFrames } from './testing/frames.js';
import { renderHook } from './testing/render-hook.js';
import { useChat, type UseChatOptions } from './use-chat.js';

test.each([false, true])('send, stream and finish; strict mode %s', async (strict) => {
  const frames = manualFrames();
  const model = writtenByTest();
  const chat = await renderHook(useChat, { model }, { strict });
  expect(chat.current).toMatchObject({ messages: [], status: 'idle', error: undefined, lastResult: undefined });

  await act(async () => void chat.current.send('Hello'));
  expect(chat.current.status).toBe('waiting');
  expect(model.answers).toHaveLength(1);

  await act(async () => {
    await model.last.write('Hi');
    frames.draw();
  });
  expect(chat.current.status).toBe('streaming');
  expect(chat.current.messages.map(({ content }) => content)).toEqual(['Hello', 'Hi']);

  await act(() => model.last.finish());
  expect(chat.current).toMatchObject({ status: 'idle', lastResult: { text: 'Hi', answeredBy: 'local' } });
  expect(chat.current.messages.map(({ status }) => status)).toEqual(['done', 'done']);
});

test('a storm of tokens is one render a frame', async () => {
  const frames = manualFrames();
  const model = writtenByTest();
  const chat = await renderHook(useChat, { model });
  await act(async () => void chat.current.send('Hello'));
  const before = chat.commits;
  for (let frame = 0; frame < 3; frame++) {
    await act(async () => {
      for (let token = 0; token < 100; token++) await model.last.write('x');
    });
    await act(async () => frames.draw());
  }
  expect(chat.commits - before).toBe(3);
  expect(chat.current.messages.at(-1)?.content).toHaveLength(300);
});

test.each([false, true])('unmounting stops the answer; strict mode %s', async (strict) => {
  const frames = manualFrames();
  const model = writtenByTest();
  const onError = vi.fn();
  const chat = await renderHook(useChat, { model, onError }, { strict });
  await act(async () => void chat.current.send('Hello'));
  await act(() => model.last.write('half'));
  const { send } = chat.current;
  await chat.unmount();
  expect(model.last.aborted).toBe(true);
  expect(frames.requested).toBe(0);
  expect(await send('Again')).toBeUndefined();
  expect(model.answers).toHaveLength(1);
  expect(onError).not.toHaveBeenCalled();
});

test('the functions stay the same; a new model, options and onError hold from the next answer on', async () => {
  manualFrames();
  const [first, second] = [writtenByTest(), writtenByTest()];
  const onError = vi.fn();
  const chat = await renderHook<ReturnType<typeof useChat>, UseChatOptions>(useChat, { model: first, options: { temperature: 0.1 } });
  const { send, stop, regenerate, edit, setMessages, reset } = chat.current;
  await act(async () => void send('One'));
  expect(first.last.options.temperature).toBe(0.1);

  await chat.rerender({ model: first, backend: second, options: { temperature: 0.9 }, onError });
  expect(first.last.aborted).toBe(false);
  await act(() => first.last.finish());
  await act(async () => void regenerate());
  expect(second.last.options.temperature).toBe(0.9);
  await act(() => second.last.fail(new HaikuqError('cloud', 'busy')));
  expect(onError).toHaveBeenCalledOnce();
  expect(chat.current).toMatchObject({ send, stop, regenerate, edit, setMessages, reset, status: 'error', error: { code: 'cloud' } });
});

test('without a model sending rejects, and works once there is one', async () => {
  manualFrames();
  const model = writtenByTest();
  const chat = await renderHook<ReturnType<typeof useChat>, UseChatOptions>(useChat, {});
  await expect(chat.current.send('Hello')).rejects.toMatchObject({ code: 'invalid-argument' });
  await chat.rerender({ model });
  await act(async () => void chat.current.send('Hello'));
  expect(model.answers).toHaveLength(1);
});

test('initial messages are rendered on a server, with the ids that the page will have', async () => {
  const initialMessages = [{ role: 'assistant', content: 'Hello!' }];
  function Page() {
    return (
      <ul>
        {useChat({ initialMessages }).messages.map(({ id, content }) => (
          <li key={id} id={id}>
            {content}
          </li>
        ))}
      </ul>
    );
  }
  expect(renderToString(<Page />)).toBe('<ul><li id="initial-0">Hello!</li></ul>');
  const chat = await renderHook(useChat, { initialMessages });
  expect(chat.current.messages.map(({ id }) => id)).toEqual(['initial-0']);
});
