import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { HaikuqError } from '../errors.js';
import { deviceLost, EOS, encode, type FakeEngines, fakeEngines, loadRequest } from '../testing/fake-engine.js';
import { fakeGrammar } from '../testing/fake-grammar.js';
import { fakeOpfs } from '../testing/fake-opfs.js';
import { fakePackage, someBytes } from '../testing/fake-package.js';
import { fakeServer, type FakeServer } from '../testing/fake-server.js';
import type { LoadProgress } from '../types.js';
import { createHost } from './host.js';
import { wasmInstance } from './wasm-instance.js';
import type { Host, HostEvent, WriteRequest } from './protocol.js';

const PREFIX = 'https://example.org/tiny/';

let engines: FakeEngines;
let server: FakeServer;
let events: HostEvent[];
let host: Host;
/** Another host in the same thread. */
let newHost: () => Host;
let trap: ((error: unknown) => void) | undefined;
let describeAdapter: () => Promise<never>;

beforeEach(async () => {
  vi.stubGlobal('navigator', { storage: fakeOpfs({ sync: true }).storage });
  engines = fakeEngines();
  server = fakeServer((await fakePackage({ s1: someBytes(9000, 1), s2: someBytes(5000, 2) })).files);
  events = [];
  const adapter = { vendor: 'v', architecture: 'a', device: 'd', description: '', limits: {}, software: false };
  describeAdapter = async () => adapter as never;
  const instance = wasmInstance(engines.module);
  newHost = () =>
    createHost({
      emit: (event) => void events.push(event),
      grammarModule: async () => fakeGrammar,
      engineModule: async () => instance,
      describeAdapter: () => describeAdapter(),
      network: server.network,
      onTrap(listener) {
        trap = listener;
        return () => (trap = undefined);
      },
    });
  host = newHost();
});
afterEach(() => vi.unstubAllGlobals());

const load = (more = {}) => host.load(1, loadRequest(PREFIX, more));
const generate = (...prompts: string[]): WriteRequest => ({
  kind: 'generate',
  prompts,
  controlTokens: false,
  options: { seed: 1, seedStep: 0 },
});
const texts = (call: number, index = 0) =>
  events.map((event) => (event.type === 'text' && event.call === call && event.index === index ? event.text : '')).join('');
const types = () => events.filter(({ type }) => type === 'device-lost');
/** Loses the device once, before the given token of the given engine. */
function loseAt(engine: number, token: number): void {
  engines.beforeToken = (_, written) => {
    if (engines.made.length === engine && written === token) throw deviceLost();
  };
}

describe('loading', () => {
  it('gives the facts and tells the progress, each phase to its end', async () => {
    expect(await load({ contextSize: 99, device: { withoutF16: true } })).toMatchObject({
      name: 'test',
      recipe: 'q4',
      contextSize: 1000,
      adapter: { vendor: 'v', f16: false, subgroups: null, software: false },
    });
    expect(engines.made[0]?.options).toEqual({ contextSize: 99, withoutF16: true });
    const progress = events.flatMap((event): LoadProgress[] => (event.type === 'progress' ? [event.progress] : []));
    expect(progress[0]).toMatchObject({ phase: 'manifest', bytes: 0, totalBytes: 14000, downloadTotalBytes: 14000 });
    expect(progress.findLast(({ phase }) => phase === 'download')).toMatchObject({ downloadedBytes: 14000 });
    expect(progress.at(-1)).toMatchObject({ phase: 'ready', bytes: 14000, totalBytes: 14000, downloadedBytes: 14000 });
  });

  it('fails before anything is fetched where there is no WebGPU', async () => {
    describeAdapter = () => Promise.reject(new HaikuqError('webgpu-unavailable', 'no'));
    await expect(load()).rejects.toMatchObject({ code: 'webgpu-unavailable' });
    expect(server.requests).toEqual([]);
  });

  it('is aborted by cancel, also where everything is stored', async () => {
    await load();
    const again = load();
    await host.cancel(1);
    await expect(again).rejects.toMatchObject({ code: 'aborted' });
  });

  it('keeps what the engine has measured for later loads of any package', async () => {
    engines.kernelTimes = '[1]';
    await load();
    expect(engines.made[0]?.options).toEqual({});
    engines.kernelTimes = undefined;
    await newHost().load(1, loadRequest(PREFIX));
    expect(engines.made[1]?.options).toEqual({ kernelTimes: '[1]' });
    await newHost().load(1, loadRequest(PREFIX, { kernels: 'table' }));
    expect(engines.made[2]?.options).toEqual({ kernels: 'table' });
  });

  it('does not measure where nothing is stored', async () => {
    await load({ cache: 'none' });
    expect(engines.made[0]?.options).toEqual({ kernels: 'table' });
  });

  it('ends its downloads when the engine refuses the package', async () => {
    engines.beforeLoad = () => {
      throw Object.assign(new Error('too small'), {
        code: 'unsupported-device',
        details: { limit: 'maxBufferSize', needed: 2, available: 1 },
      });
    };
    await expect(load()).rejects.toMatchObject({
      code: 'unsupported-device',
      details: { limit: 'maxBufferSize', needed: 2, available: 1 },
    });
    expect(server.inFlight).toBe(0);
  });
});

describe('writing', () => {
  it('streams a text and tells what it cost', async () => {
    await load();
    const { results } = await host.write(2, generate('Hi'));
    expect(results).toMatchObject([
      {
        text: 'You said: Hi',
        finish: 'stop',
        usage: { promptTokens: 2, reusedTokens: 3, completionTokens: 13 },
        recoveries: 0,
        answeredBy: 'local',
      },
    ]);
    expect(results[0]?.timings.tokensPerSecond).toBe(1200);
    expect(texts(2)).toBe('You said: Hi');
  });

  it('writes a batch together, and more than fit in groups', async () => {
    await load();
    const prompts = Array.from({ length: 11 }, (_, i) => `p${i}`);
    const { results } = await host.write(2, generate(...prompts));
    expect(results.map(({ text }) => text)).toEqual(prompts.map((prompt) => `You said: ${prompt}`));
    expect(prompts.map((_, i) => texts(2, i))).toEqual(results.map(({ text }) => text));
  });

  it('refuses a batch before anything is written where one prompt is too long, naming it', async () => {
    engines.contextSize = 30;
    await load();
    const prompts = [...Array.from({ length: 12 }, () => 'x'.repeat(30)), 'x'.repeat(31)];
    await expect(host.write(2, generate(...prompts))).rejects.toMatchObject({
      code: 'context-overflow',
      message: expect.stringContaining('prompts[12]') as string,
      details: { needed: 31, available: 30 },
    });
    expect(engines.made[0]?.requests).toEqual([]);
    await expect(host.write(3, generate('x'.repeat(31)))).rejects.toThrow(/^prompt does not fit/);
    expect((await host.write(4, generate('x'.repeat(30)))).results).toHaveLength(1);
  });

  it('applies the chat template, and trims', async () => {
    engines.contextSize = 60;
    await load();
    const messages = [
      { role: 'system', content: 'S' },
      { role: 'user', content: 'x'.repeat(40) },
      { role: 'assistant', content: 'y' },
      { role: 'user', content: 'z' },
    ];
    const chat = { messages, continueFinalMessage: false };
    const { results, trimmed } = await host.write(2, {
      kind: 'chat',
      chat,
      overflow: 'trim',
      reserve: undefined,
      options: { seed: 1, seedStep: 0 },
    });
    expect(results[0]?.text).toBe('You said: <system>S<user>z<assistant>');
    expect(trimmed).toEqual({ droppedMessages: [1, 2], promptTokensBefore: 85, promptTokensAfter: 27 });
    await expect(
      host.write(3, { kind: 'chat', chat, overflow: 'refuse', reserve: undefined, options: { seed: 1, seedStep: 0 } }),
    ).rejects.toMatchObject({
      code: 'context-overflow',
      details: { needed: 85, available: 60 },
    });
  });

  it('serves one call after the other', async () => {
    await load();
    engines.beforeToken = () => new Promise((resolve) => setTimeout(resolve, 1));
    const answers = await Promise.all([host.write(2, generate('a')), host.write(3, generate('b')), host.continueGreedily(encode('c'), 3)]);
    expect(answers.slice(0, 2)).toMatchObject([{ results: [{ text: 'You said: a' }] }, { results: [{ text: 'You said: b' }] }]);
    const calls = events.flatMap((event) => (event.type === 'text' ? [event.call] : []));
    expect(calls).toEqual([...calls].sort());
  });

  it('cancels a text that is written and one that waits, without disturbing others', async () => {
    await load();
    engines.beforeToken = (_, written) => (written === 4 ? host.cancel(2) : undefined);
    const first = host.write(2, generate('a'));
    const second = host.write(3, generate('b'));
    const third = host.write(4, generate('c'));
    await host.cancel(3);
    expect((await second).results).toMatchObject([{ text: '', finish: 'cancelled', usage: { completionTokens: 0 } }]);
    const { results } = await first;
    expect(results[0]).toMatchObject({ finish: 'cancelled', text: 'You s' });
    expect(texts(2)).toBe('You s');
    expect((await third).results).toMatchObject([{ text: 'You said: c', finish: 'stop' }]);
  });

  it('continues greedily up to an end token, which belongs to it', async () => {
    await load();
    engines.answer = () => `ab${String.fromCodePoint(EOS)}cd`;
    expect(await host.continueGreedily(encode('x'), 10)).toEqual(Uint32Array.of(97, 98, EOS));
    expect(await host.continueGreedily(encode('x'), 2)).toEqual(Uint32Array.of(97, 98));
  });

  it('scores in blocks', async () => {
    await load();
    await host.score(2, encode('abcde'));
    const rows = events.flatMap((event) => (event.type === 'rows' ? [[event.first, ...event.logits]] : []));
    expect(rows).toEqual([
      [0, 0, 0, 1, 1],
      [2, 2, 2, 3, 3],
      [4, 4, 4],
    ]);
  });

  it('keeps its errors typed, and goes on after them', async () => {
    await expect(host.write(2, generate('a'))).rejects.toMatchObject({ code: 'invalid-argument' });
    await load();
    engines.beforeToken = () => {
      throw Object.assign(new Error('no memory'), { code: 'out-of-memory', details: { needed: 5 } });
    };
    await expect(host.write(2, generate('a'))).rejects.toSatisfy((error) => error instanceof HaikuqError && error.code === 'out-of-memory');
    engines.beforeToken = () => undefined;
    expect((await host.write(2, generate('a'))).results[0]?.finish).toBe('stop');
    expect(engines.made).toMatchObject([{ freed: true }, { freed: false }]);
  });
});

describe('a lost device', () => {
  it('is replaced from the store, and the stream goes on where it was', async () => {
    await load();
    server.down = true;
    loseAt(1, 5);
    const { results } = await host.write(2, generate('Hi'));
    expect(results).toMatchObject([{ text: 'You said: Hi', recoveries: 1, finish: 'stop' }]);
    expect(texts(2)).toBe('You said: Hi');
    expect(engines.made[1]?.requests).toMatchObject([{ written: encode('You s'), seed: 1 }]);
    expect(engines.made[0]?.freed).toBe(true);
    expect(types()).toEqual([
      { type: 'device-lost', message: 'the device was lost: destroyed', recovered: false },
      { type: 'device-lost', message: 'the device was lost: destroyed', recovered: true },
    ]);
  });

  it('tells no progress when its files come over the network again', async () => {
    vi.stubGlobal('navigator', {});
    await load();
    const before = events.filter(({ type }) => type === 'progress').length;
    const requests = server.requests.length;
    loseAt(1, 5);
    await host.write(2, generate('Hi'));
    expect(server.requests.length).toBeGreaterThan(requests);
    expect(events.filter(({ type }) => type === 'progress')).toHaveLength(before);
  });

  it('is replaced in the middle of a batch', async () => {
    await load();
    engines.answer = (prompt) => prompt.repeat(prompt.length);
    loseAt(1, 3);
    const { results } = await host.write(2, generate('a', 'bbb', 'cc'));
    expect(results.map(({ text }) => text)).toEqual(['a', 'bbbbbbbbb', 'cccc']);
    expect([0, 1, 2].map((i) => texts(2, i))).toEqual(['a', 'bbbbbbbbb', 'cccc']);
  });

  it('does not ask again for the texts of a batch that are over', async () => {
    await load();
    const prompts = Array.from({ length: 10 }, (_, i) => `${i}`);
    const request = generate(...prompts);
    request.options.maxTokens = 4;
    // The second group: the first of its two texts has all its tokens when the second one is to get its last.
    engines.beforeToken = (index, written) => {
      if (engines.made.length === 1 && engines.made[0]?.requests.length === 10 && index === 1 && written === 3) throw deviceLost();
    };
    const { results } = await host.write(2, request);
    expect(engines.made[1]?.requests).toMatchObject([{ prompt: encode('9'), written: encode('You') }]);
    expect(results.map(({ text }) => text)).toEqual(prompts.map(() => 'You '));
    expect(results[8]).toMatchObject({
      ids: encode('You '),
      finish: 'length',
      usage: { promptTokens: 1, completionTokens: 4 },
      recoveries: 1,
    });
    expect(prompts.map((_, i) => texts(2, i))).toEqual(prompts.map(() => 'You '));
  });

  it('is an error when it is lost again', async () => {
    await load();
    engines.beforeToken = (_, written) => {
      if (written === 5 * engines.made.length) throw deviceLost();
    };
    await expect(host.write(2, generate('Hi'))).rejects.toMatchObject({ code: 'device-lost' });
    expect(texts(2)).toBe('You said: ');
    engines.beforeToken = () => undefined;
    expect((await host.write(3, generate('Hi'))).results[0]?.text).toBe('You said: Hi');
  });

  it('is noticed by the next call when it was idle', async () => {
    await load();
    await host.loseDevice();
    expect((await host.write(2, generate('Hi'))).results).toMatchObject([{ text: 'You said: Hi', recoveries: 1 }]);
    expect(engines.made).toHaveLength(2);
  });

  it('does not make a score tell rows twice', async () => {
    await load();
    loseAt(1, 4);
    await host.score(2, encode('abcdef'));
    expect(events.flatMap((event) => (event.type === 'rows' ? [event.first] : []))).toEqual([0, 2, 4]);
  });

  it('does not make a greedy continuation begin again', async () => {
    await load();
    loseAt(1, 2);
    engines.answer = () => 'abcdef';
    expect(await host.continueGreedily(encode('x'), 4)).toEqual(encode('abcd'));
  });

  it('that cannot be replaced is an error that says why', async () => {
    await load();
    loseAt(1, 1);
    engines.beforeLoad = () => {
      throw Object.assign(new Error('device is too small'), { code: 'unsupported-device', details: {} });
    };
    await expect(host.write(2, generate('Hi'))).rejects.toMatchObject({
      code: 'device-lost',
      message: expect.stringContaining('too small') as string,
    });
    expect(types()).toHaveLength(1);
  });
});

describe('profiling', () => {
  it('waits for its turn and is done again on another device', async () => {
    await load({ device: { pins: { project: 'matvec', attend: 'attention' } } });
    expect(engines.made[0]?.options).toEqual({ pins: 'project=matvec,attend=attention' });
    const order: string[] = [];
    const writing = host.write(2, generate('a')).then(() => order.push('text'));
    const profiling = host.profile(16).then(({ steps }) => order.push(`profile of ${steps[0]?.tokens}`));
    await Promise.all([writing, profiling]);
    expect(order).toEqual(['text', 'profile of 16']);
    loseAt(1, 0);
    expect((await host.profile(4)).steps[1]).toMatchObject({ phase: 'decode', depth: 4 });
    expect(engines.made).toHaveLength(2);
  });
});

describe('a trap', () => {
  it('fails the call, and the next one has a new engine', async () => {
    await load();
    engines.beforeToken = () => {
      throw new WebAssembly.RuntimeError('unreachable');
    };
    await expect(host.write(2, generate('a'))).rejects.toMatchObject({ code: 'internal' });
    expect(engines.resets).toBe(1);
    engines.beforeToken = () => undefined;
    expect((await host.write(3, generate('a'))).results[0]?.text).toBe('You said: a');
    expect(engines.made).toHaveLength(2);
  });

  it('in a future of its own does not leave the call waiting', async () => {
    await load();
    engines.beforeToken = () => new Promise(() => undefined);
    const writing = host.write(2, generate('a'));
    writing.catch(() => undefined);
    await vi.waitUntil(() => trap);
    trap?.(new WebAssembly.RuntimeError('memory allocation failed: out of memory'));
    await expect(writing).rejects.toMatchObject({ code: 'out-of-memory' });
    expect(trap).toBeUndefined();
  });
});

describe('two models in one thread', () => {
  let other: Host;
  beforeEach(async () => {
    await load();
    other = newHost();
    await other.load(1, loadRequest(PREFIX));
  });
  const trapAt = (token: number) => (_: number, written: number) => {
    if (written === token) throw new WebAssembly.RuntimeError('unreachable');
  };

  it('share an instance: a trap in one brings the other a new engine', async () => {
    engines.beforeToken = trapAt(0);
    await expect(host.write(2, generate('a'))).rejects.toMatchObject({ code: 'internal' });
    engines.beforeToken = () => undefined;
    expect(await other.countTokens('abc')).toBe(3);
    expect((await other.write(2, generate('b'))).results[0]).toMatchObject({ text: 'You said: b', recoveries: 0 });
    expect((await host.write(2, generate('a'))).results[0]?.text).toBe('You said: a');
    expect(engines.made).toHaveLength(4);
    expect(engines.resets).toBe(1);
  });

  it('fail together where a trap in one ends a call of the other', async () => {
    engines.beforeToken = () => new Promise(() => undefined);
    const waiting = other.write(2, generate('b'));
    waiting.catch(() => undefined);
    await vi.waitUntil(() => engines.running === 1);
    engines.beforeToken = trapAt(0);
    engines.running = 0;
    await expect(host.write(2, generate('a'))).rejects.toMatchObject({ code: 'internal' });
    await expect(waiting).rejects.toMatchObject({ code: 'internal' });
    engines.beforeToken = () => undefined;
    engines.running = 0;
    expect((await other.write(3, generate('b'))).results[0]?.text).toBe('You said: b');
    expect(engines.resets).toBe(1);
  });

  it('disposes of one whose instance is gone without calling its engine', async () => {
    engines.beforeToken = trapAt(0);
    await expect(host.write(2, generate('a'))).rejects.toMatchObject({ code: 'internal' });
    await other.dispose();
    expect(engines.made[1]?.freed).toBe(false);
  });
});

describe('dispose', () => {
  it('ends what runs and frees the engine', async () => {
    await load();
    engines.beforeToken = () => new Promise((resolve) => setTimeout(resolve, 1));
    const writing = host.write(2, generate('a'));
    const waiting = host.write(3, generate('b'));
    await host.dispose();
    expect((await writing).results[0]?.finish).toBe('cancelled');
    expect((await waiting).results[0]?.finish).toBe('cancelled');
    expect(engines.made[0]?.freed).toBe(true);
  });
});
