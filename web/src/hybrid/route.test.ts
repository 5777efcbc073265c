import { afterEach, expect, test, vi } from 'vitest';
import type { AdapterInfo, Message, ModelInfo } from '../types.js';
import { describeAdapter } from '../worker/adapter.js';
import { probeDevice } from './device.js';
import { hybrid, type HybridOptions, type RouteEvent } from './hybrid.js';
import type { LocalBackend } from './local.js';
import type { RouteDecision, RouteQuestion } from './route.js';
import { ADAPTER, failure, scripted } from './testing/backends.js';

const HELLO: Message[] = [{ role: 'user', content: 'Hello' }];

afterEach(() => vi.unstubAllGlobals());

/** A local model that counts a token a character. */
function counting(adapter: AdapterInfo = ADAPTER): LocalBackend {
  return {
    ...scripted('local', ['here']),
    info: { adapter } as ModelInfo,
    countTokens: async (prompt) => (typeof prompt === 'string' ? prompt : prompt.map(({ content }) => content).join('')).length,
  };
}

async function routeOf(options: HybridOptions, messages = HELLO): Promise<RouteEvent> {
  const routes: RouteEvent[] = [];
  await hybrid({ cloud: scripted('cloud', ['far']), ...options, onRoute: (event) => routes.push(event) }).chat(messages).result;
  expect(routes).toHaveLength(1);
  return routes[0]!;
}

/** A WebGPU with this adapter, and no more. */
function stubGpu(adapter: AdapterInfo | null) {
  const requestAdapter = vi.fn(
    async () =>
      adapter && {
        info: { ...adapter, subgroupMinSize: 16, subgroupMaxSize: 64, isFallbackAdapter: adapter.software },
        features: new Set(['shader-f16', 'subgroups']),
        // Getters of the prototype, as in browsers.
        limits: Object.create({ maxBufferSize: 123, maxBindGroups: 4, toString: () => '' }),
      },
  );
  vi.stubGlobal('navigator', { onLine: true, gpu: { requestAdapter } });
  return requestAdapter;
}

test.each([
  [5, 'local'],
  [4, 'cloud'],
] as const)('5 characters at most %i: %s', async (maxPromptCharacters, answeredBy) => {
  expect(await routeOf({ local: counting(), route: { maxPromptCharacters } })).toEqual({
    answeredBy,
    reason: answeredBy === 'local' ? 'route' : 'prompt-length',
  });
});

test.each([
  [5, 'local'],
  [4, 'cloud'],
] as const)('5 tokens at most %i: %s', async (maxPromptTokens, answeredBy) => {
  expect(await routeOf({ local: counting(), route: { maxPromptTokens } })).toEqual({
    answeredBy,
    reason: answeredBy === 'local' ? 'route' : 'prompt-length',
  });
});

test('a limit by tokens loads the model once to count, and a model that does not load leaves it to the cloud', async () => {
  const load = vi.fn(() => Promise.reject(failure('network')));
  expect(await routeOf({ local: load, route: { maxPromptTokens: 100 } })).toMatchObject({
    answeredBy: 'cloud',
    reason: 'fallback',
    fallbackFrom: 'local',
    error: { code: 'network' },
  });
  expect(load).toHaveBeenCalledTimes(1);
});

test('too many characters, or too weak a device, downloads nothing', async () => {
  stubGpu({ ...ADAPTER, software: true });
  const load = vi.fn(async () => counting());
  expect(await routeOf({ local: load, route: { maxPromptCharacters: 4, maxPromptTokens: 100 } })).toMatchObject({
    reason: 'prompt-length',
  });
  expect(await routeOf({ local: load, route: { minDevice: (device) => !device.software, maxPromptTokens: 100 } })).toEqual({
    answeredBy: 'cloud',
    reason: 'device',
  });
  expect(load).not.toHaveBeenCalled();
});

test('without WebGPU minDevice is not asked', async () => {
  stubGpu(null);
  const minDevice = vi.fn(() => true);
  expect(await routeOf({ local: async () => counting(), route: { minDevice } })).toEqual({ answeredBy: 'cloud', reason: 'device' });
  expect(minDevice).not.toHaveBeenCalled();
});

test('asks for one adapter, with the caller’s preference, and the model on this thread gets it', async () => {
  const requestAdapter = stubGpu(ADAPTER);
  const device = { powerPreference: 'high-performance' } as const;
  const given: unknown[] = [];
  const load = async () => {
    const { adapter } = await describeAdapter(device);
    given.push(adapter);
    return counting();
  };
  const minDevice = vi.fn(() => true);
  const both = hybrid({ local: load, cloud: scripted('cloud', ['far']), device, route: { minDevice, maxPromptTokens: 4 } });
  await both.chat(HELLO).result;
  await both.chat(HELLO).result;
  expect(minDevice).toHaveBeenCalledTimes(2);
  expect(requestAdapter.mock.calls).toEqual([[device]]);
  expect(given).toEqual([await requestAdapter.mock.results[0]?.value]);
  // One adapter gives one device.
  await load();
  expect(requestAdapter).toHaveBeenCalledTimes(2);
  expect(given[1]).not.toBe(given[0]);
});

test('a device that is too weak is asked for once, and a model of another preference gets another adapter', async () => {
  const requestAdapter = stubGpu({ ...ADAPTER, software: true });
  const questions: RouteQuestion[] = [];
  const route = (question: RouteQuestion): RouteDecision => (questions.push(question), 'cloud');
  const both = hybrid({ local: async () => counting(), cloud: scripted('cloud', ['far']), route });
  await Promise.all([both.chat(HELLO).result, both.chat(HELLO).result]);
  expect(questions.map(({ device }) => device?.software)).toEqual([true, true]);
  expect(requestAdapter.mock.calls).toEqual([[{}]]);
  await describeAdapter({ powerPreference: 'low-power' });
  expect(requestAdapter.mock.calls).toEqual([[{}], [{ powerPreference: 'low-power' }]]);
});

test('a loaded model says its own device', async () => {
  const requestAdapter = stubGpu(null);
  const minDevice = vi.fn(({ vendor }: AdapterInfo) => vendor === 'acme');
  expect(await routeOf({ local: counting(), route: { minDevice } })).toEqual({ answeredBy: 'local', reason: 'route' });
  expect(requestAdapter).not.toHaveBeenCalled();
});

test('what a limit sends to the cloud, the local model answers where the cloud fails', async () => {
  const cloud = scripted('cloud', [], { error: failure('cloud') });
  expect(await routeOf({ local: counting(), cloud, route: { maxPromptCharacters: 1 } })).toMatchObject({
    answeredBy: 'local',
    reason: 'fallback',
    fallbackFrom: 'cloud',
  });
});

test('with one side only, that one', async () => {
  expect(await routeOf({ local: counting(), cloud: undefined, route: { maxPromptCharacters: 1 } })).toEqual({
    answeredBy: 'local',
    reason: 'only-side',
  });
  expect(await routeOf({ route: { maxPromptTokens: 10, minDevice: () => true } })).toEqual({ answeredBy: 'cloud', reason: 'only-side' });
  expect(await routeOf({ route: 'local-first' })).toEqual({ answeredBy: 'cloud', reason: 'only-side' });
});

test('local-only and cloud-only keep to their side', async () => {
  const error = failure('network');
  const broken = scripted('cloud', [], { error });
  await expect(hybrid({ local: counting(), cloud: broken, route: 'cloud-only' }).chat(HELLO).result).rejects.toBe(error);
  const cloud = scripted('cloud', ['no']);
  await expect(hybrid({ local: () => Promise.reject(error), cloud, route: 'local-only' }).chat(HELLO).result).rejects.toBe(error);
  expect(cloud.asked).toEqual([]);
  vi.stubGlobal('navigator', { onLine: false });
  await expect(hybrid({ local: counting(), cloud: broken, route: 'cloud-only' }).chat(HELLO).result).rejects.toBe(error);
});

test('local-only waits for the model even where others go to the cloud meanwhile', async () => {
  const options: HybridOptions = { local: async () => counting(), whileLoading: 'cloud', route: 'local-only' };
  expect(await routeOf(options)).toEqual({ answeredBy: 'local', reason: 'route' });
});

test('-only for a side that is not given is refused', async () => {
  await expect(hybrid({ cloud: scripted('cloud', ['no']), route: 'local-only' }).chat(HELLO).result).rejects.toMatchObject({
    code: 'invalid-argument',
  });
  await expect(hybrid({ local: counting(), route: 'cloud-only' }).chat(HELLO).result).rejects.toMatchObject({ code: 'invalid-argument' });
});

test('a function is told what there is to know', async () => {
  stubGpu({ ...ADAPTER, vendor: 'probed' });
  const questions: RouteQuestion[] = [];
  const route = async (question: RouteQuestion): Promise<RouteDecision> => {
    questions.push(question);
    return question.promptTokens === undefined ? 'local' : 'cloud';
  };
  const backend = hybrid({ local: async () => counting(), cloud: scripted('cloud', ['far']), route });
  expect((await backend.chat(HELLO, { maxTokens: 3 }).result).answeredBy).toBe('local');
  expect((await backend.chat(HELLO).result).answeredBy).toBe('cloud');
  expect(questions).toMatchObject([
    { messages: HELLO, options: { maxTokens: 3 }, device: { vendor: 'probed' }, online: true, local: 'unloaded' },
    { messages: HELLO, promptTokens: 5, device: { vendor: 'acme' }, online: true, local: 'ready' },
  ]);
  expect(questions[0]).not.toHaveProperty('promptTokens');
});

test('a function that answers nothing, or throws, is an error', async () => {
  const cloud = scripted('cloud', ['no']);
  const local = counting();
  await expect(hybrid({ local, cloud, route: () => undefined as unknown as 'local' }).chat(HELLO).result).rejects.toMatchObject({
    code: 'invalid-argument',
  });
  const route = () => {
    throw new Error('defect of the page');
  };
  await expect(hybrid({ local, cloud, route }).chat(HELLO).result).rejects.toMatchObject({
    code: 'internal',
    message: 'defect of the page',
  });
  expect(cloud.asked).toEqual([]);
});

test('the device is described from the adapter alone', async () => {
  stubGpu(ADAPTER);
  expect(await probeDevice()).toEqual({
    vendor: 'acme',
    architecture: 'a1',
    device: '',
    description: '',
    f16: true,
    subgroups: [16, 64],
    limits: { maxBufferSize: 123, maxBindGroups: 4 },
    software: false,
  });
});

test('no WebGPU, no adapter and an adapter that is refused are no device', async () => {
  vi.stubGlobal('navigator', {});
  expect(await probeDevice()).toBeUndefined();
  stubGpu(null);
  expect(await probeDevice()).toBeUndefined();
  vi.stubGlobal('navigator', { gpu: { requestAdapter: () => Promise.reject(new Error('denied')) } });
  expect(await probeDevice()).toBeUndefined();
});
