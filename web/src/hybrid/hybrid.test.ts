import { afterEach, expect, onTestFinished, test, vi } from 'vitest';
import { type ErrorCode, HaikuqError } from '../errors.js';
import type { ChatBackend, Message } from '../types.js';
import { anthropicMessages } from './anthropic.js';
import { hybrid, type HybridOptions, type RouteEvent } from './hybrid.js';
import type { LocalBackend } from './local.js';
import { makeTextStream, plainResult } from './stream.js';
import { collect, failure, scripted } from './testing/backends.js';
import { anthropicEvents, eventServer, events, hangUpAfter, json } from './testing/event-server.js';

const HELLO: Message[] = [{ role: 'user', content: 'Hello' }];
const NO_TIME = { timeToFirstTokenMs: 0, decodeMs: 0, tokensPerSecond: 0 };

afterEach(() => vi.unstubAllGlobals());

/** A hybrid whose route events are kept. */
function reporting(options: HybridOptions) {
  const routes: RouteEvent[] = [];
  return { routes, backend: hybrid({ ...options, onRoute: (event) => routes.push(event) }) };
}

test('local-first: the local model answers, and says so', async () => {
  const cloud = scripted('cloud', ['no']);
  const { backend, routes } = reporting({ local: scripted('local', ['on ', 'device']), cloud });
  const stream = backend.chat(HELLO);
  expect(await collect(stream)).toEqual(['on ', 'device']);
  expect(await stream.result).toMatchObject({ text: 'on device', answeredBy: 'local', finish: 'stop' });
  expect(routes).toEqual([{ answeredBy: 'local', reason: 'route' }]);
  expect(cloud.asked).toEqual([]);
});

test('cloud-first: the cloud answers, and the local model is not even loaded', async () => {
  const load = vi.fn(async () => scripted('local', ['no']));
  const { backend, routes } = reporting({ local: load, cloud: scripted('cloud', ['far']), route: 'cloud-first' });
  expect(await backend.chat(HELLO).result).toMatchObject({ text: 'far', answeredBy: 'cloud' });
  expect(routes).toEqual([{ answeredBy: 'cloud', reason: 'route' }]);
  expect(load).not.toHaveBeenCalled();
  expect(backend.localState).toBe('unloaded');
});

test.each<ErrorCode>([
  'webgpu-unavailable',
  'unsupported-device',
  'out-of-memory',
  'quota',
  'network',
  'integrity',
  'invalid-package',
  'device-lost',
  'aborted',
])('a local model that does not load for %s leaves the answer to the cloud', async (code) => {
  const error = failure(code);
  for (const local of [
    () => Promise.reject(error),
    Promise.reject(error),
    () => {
      throw error;
    },
  ]) {
    const { backend, routes } = reporting({ local, cloud: scripted('cloud', ['far']) });
    expect(await backend.chat(HELLO).result).toMatchObject({ text: 'far', answeredBy: 'cloud' });
    expect(routes).toEqual([{ answeredBy: 'cloud', reason: 'fallback', fallbackFrom: 'local', error }]);
  }
});

test.each<ErrorCode>(['device-lost', 'out-of-memory', 'context-overflow', 'internal'])(
  'a local model that fails of %s before its first text leaves the answer to the cloud',
  async (code) => {
    const error = failure(code);
    const { backend, routes } = reporting({ local: scripted('local', [], { error }), cloud: scripted('cloud', ['far']) });
    expect(await backend.chat(HELLO).text()).toBe('far');
    expect(routes).toEqual([{ answeredBy: 'cloud', reason: 'fallback', fallbackFrom: 'local', error }]);
  },
);

test.each<ErrorCode>(['invalid-argument', 'aborted'])('nothing steps in after %s', async (code) => {
  const error = failure(code);
  const cloud = scripted('cloud', ['no']);
  const { backend, routes } = reporting({ local: scripted('local', [], { error }), cloud });
  await expect(backend.chat(HELLO).result).rejects.toBe(error);
  expect(cloud.asked).toEqual([]);
  expect(routes).toEqual([]);
});

test('a loader that was called wrongly is not hidden', async () => {
  const cloud = scripted('cloud', ['no']);
  const backend = hybrid({ local: () => Promise.reject(failure('invalid-argument')), cloud });
  await expect(backend.chat(HELLO).result).rejects.toMatchObject({ code: 'invalid-argument' });
  expect(cloud.asked).toEqual([]);
});

test.each(['local', 'cloud'] as const)('after the first text a failure of the %s side is thrown, not mended', async (side) => {
  const broken = scripted(side, ['half ', 'an'], { error: failure('network') });
  const whole = scripted(side === 'local' ? 'cloud' : 'local', ['no']);
  const { backend, routes } = reporting(
    side === 'local' ? { local: broken, cloud: whole } : { local: whole, cloud: broken, route: 'cloud-first' },
  );
  const stream = backend.chat(HELLO);
  const pieces: string[] = [];
  const reading = (async () => {
    for await (const piece of stream) pieces.push(piece);
  })();
  await expect(reading).rejects.toMatchObject({ code: 'network', details: { partialText: 'half an' } });
  expect(pieces).toEqual(['half ', 'an']);
  expect(whole.asked).toEqual([]);
  expect(routes).toEqual([{ answeredBy: side, reason: 'route' }]);
});

test('an answer without any text is an answer', async () => {
  const cloud = scripted('cloud', ['no']);
  const { backend, routes } = reporting({ local: scripted('local', []), cloud });
  expect(await backend.chat(HELLO).result).toMatchObject({ text: '', finish: 'stop', answeredBy: 'local' });
  expect(routes).toEqual([{ answeredBy: 'local', reason: 'route' }]);
  expect(cloud.asked).toEqual([]);
});

test('both fail: the last error, with both in words and as the cause', async () => {
  const first = failure('webgpu-unavailable');
  const second = new HaikuqError('cloud', 'busy', { status: 529 });
  const error = await hybrid({ local: () => Promise.reject(first), cloud: scripted('cloud', [], { error: second }) })
    .chat(HELLO)
    .result.catch((error) => error);
  expect(error).toMatchObject({ code: 'cloud', details: { status: 529 } });
  expect(error.message).toBe('neither side answered; local: failed with webgpu-unavailable; cloud: busy');
  expect(error.cause.errors).toEqual([first, second]);
});

test('with one side its own error is thrown', async () => {
  const error = failure('webgpu-unavailable');
  await expect(hybrid({ local: () => Promise.reject(error) }).chat(HELLO).result).rejects.toBe(error);
});

test('neither side, or an unknown route, is refused', () => {
  expect(() => hybrid({})).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  expect(() => hybrid({ cloud: scripted('cloud', []), route: 'local' as 'local-first' })).toThrow(
    expect.objectContaining({ code: 'invalid-argument' }),
  );
});

test('offline, a conversation for the cloud goes to the local model', async () => {
  vi.stubGlobal('navigator', { onLine: false });
  const cloud = scripted('cloud', ['no']);
  const { backend, routes } = reporting({ local: scripted('local', ['here']), cloud, route: 'cloud-first' });
  expect(await backend.chat(HELLO).result).toMatchObject({ text: 'here', answeredBy: 'local' });
  expect(routes).toEqual([{ answeredBy: 'local', reason: 'offline' }]);
  expect(cloud.asked).toEqual([]);
});

test('a loader is called once, and again only after a failure that may pass', async () => {
  const load = vi
    .fn<() => Promise<LocalBackend>>()
    .mockRejectedValueOnce(failure('network'))
    .mockRejectedValueOnce(failure('aborted'))
    .mockResolvedValue(scripted('local', ['here']));
  const backend = hybrid({ local: load, cloud: scripted('cloud', ['far']) });
  const answers: string[] = [];
  for (let turn = 0; turn < 4; turn++) answers.push((await backend.chat(HELLO).result).answeredBy);
  expect(answers).toEqual(['cloud', 'cloud', 'local', 'local']);
  expect(load).toHaveBeenCalledTimes(3);
});

test('a device that cannot run the model is not asked again', async () => {
  const load = vi.fn(() => Promise.reject(failure('unsupported-device')));
  const backend = hybrid({ local: load, cloud: scripted('cloud', ['far']) });
  await backend.chat(HELLO).result;
  await backend.chat(HELLO).result;
  expect(load).toHaveBeenCalledTimes(1);
  expect(backend.localState).toBe('failed');
});

test('preload loads before the first message', async () => {
  const backend = hybrid({ local: async () => scripted('local', ['here']), cloud: scripted('cloud', []) });
  expect(backend.localState).toBe('unloaded');
  const loading = backend.preload();
  expect(backend.localState).toBe('loading');
  await loading;
  expect(backend.localState).toBe('ready');
});

test('whileLoading cloud: the cloud answers until the model is there', async () => {
  let arrive!: (model: LocalBackend) => void;
  const load = vi.fn(() => new Promise<LocalBackend>((resolve) => (arrive = resolve)));
  const { backend, routes } = reporting({ local: load, cloud: scripted('cloud', ['far']), whileLoading: 'cloud' });
  expect((await backend.chat(HELLO).result).answeredBy).toBe('cloud');
  expect(backend.localState).toBe('loading');
  arrive(scripted('local', ['here']));
  await backend.preload();
  expect((await backend.chat(HELLO).result).answeredBy).toBe('local');
  expect(routes.map(({ reason }) => reason)).toEqual(['loading', 'route']);
  expect(load).toHaveBeenCalledTimes(1);
});

test('whileLoading cloud: offline, the model is waited for', async () => {
  vi.stubGlobal('navigator', { onLine: false });
  const cloud = scripted('cloud', ['no']);
  const { backend, routes } = reporting({ local: async () => scripted('local', ['here']), cloud, whileLoading: 'cloud' });
  expect(await backend.chat(HELLO).text()).toBe('here');
  expect(routes).toEqual([{ answeredBy: 'local', reason: 'route' }]);
  expect(cloud.asked).toEqual([]);
});

test('whileLoading cloud: counting tokens does not wait for the model', async () => {
  const load = vi.fn(() => new Promise<LocalBackend>(() => {}));
  const { backend, routes } = reporting({
    local: load,
    cloud: scripted('cloud', ['far']),
    whileLoading: 'cloud',
    route: { maxPromptTokens: 9 },
  });
  expect(await backend.chat(HELLO).text()).toBe('far');
  expect(routes).toEqual([{ answeredBy: 'cloud', reason: 'loading' }]);
  expect(load).toHaveBeenCalledTimes(1);
});

test('abort while the model loads ends the answer and leaves the loading alone', async () => {
  let arrive!: (model: LocalBackend) => void;
  const local = new Promise<LocalBackend>((resolve) => (arrive = resolve));
  const cloud = scripted('cloud', ['no']);
  const { backend, routes } = reporting({ local, cloud });
  const stream = backend.chat(HELLO);
  setTimeout(stream.abort);
  expect(await stream.result).toMatchObject({ finish: 'cancelled', text: '', answeredBy: 'local' });
  expect(await collect(stream)).toEqual([]);
  arrive(scripted('local', ['here']));
  expect(await backend.chat(HELLO).text()).toBe('here');
  expect(cloud.asked).toEqual([]);
  expect(routes).toHaveLength(1);
});

test('abort before the first text does not wake the other side', async () => {
  const controller = new AbortController();
  const cloud = scripted('cloud', ['no']);
  const { backend, routes } = reporting({ local: scripted('local', [], { hangs: true }), cloud });
  const stream = backend.chat(HELLO, { signal: controller.signal });
  setTimeout(() => controller.abort());
  await expect(collect(stream)).rejects.toMatchObject({ code: 'aborted' });
  expect(await stream.result).toMatchObject({ finish: 'cancelled', answeredBy: 'local' });
  expect(cloud.asked).toEqual([]);
  expect(routes).toEqual([]);
});

test('abort before the first text is no answer to report, also of a backend that ends quietly', async () => {
  const quiet: ChatBackend = {
    chat: (_, options) =>
      makeTextStream(async () => {
        await new Promise((resolve) => options?.signal?.addEventListener('abort', resolve));
        return plainResult('local', '', 'cancelled', NO_TIME);
      }),
  };
  const { backend, routes } = reporting({ local: quiet });
  const stream = backend.chat(HELLO);
  setTimeout(stream.abort);
  expect((await stream.result).finish).toBe('cancelled');
  expect(routes).toEqual([]);
});

test('the time to the first token is counted from the call, with routing and loading', async () => {
  let now = 0;
  vi.spyOn(performance, 'now').mockImplementation(() => (now += 1000));
  onTestFinished(() => void vi.restoreAllMocks());
  const { timings } = await hybrid({ local: async () => scripted('local', ['x']) }).chat(HELLO).result;
  // The model itself says 1 ms.
  expect(timings.timeToFirstTokenMs).toBe(1000);
});

test('abort midway keeps the text', async () => {
  const stream = hybrid({ local: scripted('local', ['one ', 'two'], { hangs: true }) }).chat(HELLO);
  for await (const piece of stream) if (piece === 'two') stream.abort();
  expect(await stream.result).toMatchObject({ finish: 'cancelled', text: 'one two', answeredBy: 'local' });
});

test('options reach the side that answers', async () => {
  const local = scripted('local', ['x']);
  await hybrid({ local }).chat(HELLO, { temperature: 0.5, overflow: 'refuse' }).result;
  expect(local.asked[0]).toMatchObject({ messages: HELLO, options: { temperature: 0.5, overflow: 'refuse' } });
});

test('an error in onRoute ends the answer and shows', async () => {
  const local = scripted('local', ['x'], { hangs: true });
  const chat = vi.spyOn(local, 'chat');
  const onRoute = () => {
    throw new Error('defect of the page');
  };
  await expect(hybrid({ local, onRoute }).chat(HELLO).result).rejects.toMatchObject({ code: 'internal', message: 'defect of the page' });
  expect(await chat.mock.results[0]?.value.result).toMatchObject({ finish: 'cancelled' });
});

test('against a real server: a cloud that refuses, then answers, then hangs up midway', async () => {
  const server = await eventServer(
    json(500, { type: 'error', error: { type: 'api_error', message: 'Internal server error' } }),
    events(anthropicEvents(['far 🌸'])),
    hangUpAfter(anthropicEvents(['half'], { end: false })),
  );
  const cloud = anthropicMessages({ endpoint: server.url, model: 'm', maxTokens: 50 });
  const { backend, routes } = reporting({ local: scripted('local', ['here']), cloud, route: 'cloud-first' });
  expect(await backend.chat(HELLO).result).toMatchObject({ text: 'here', answeredBy: 'local' });
  expect(await backend.chat(HELLO).result).toMatchObject({ text: 'far 🌸', answeredBy: 'cloud' });
  await expect(backend.chat(HELLO).result).rejects.toMatchObject({ code: 'network', details: { partialText: 'half' } });
  expect(routes).toMatchObject([
    { answeredBy: 'local', reason: 'fallback', fallbackFrom: 'cloud', error: { code: 'cloud', details: { status: 500 } } },
    { answeredBy: 'cloud', reason: 'route' },
    { answeredBy: 'cloud', reason: 'route' },
  ]);
});
