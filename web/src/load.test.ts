import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { HaikuqError } from './errors.js';
import { load } from './load.js';
import { checkChat } from './options.js';
import { listStored, removeStored, storageUse } from './store/stored.js';
import { fakeCaches } from './testing/fake-caches.js';
import { encode, type FakeEngines, fakeEngines } from './testing/fake-engine.js';
import { fakeGrammar } from './testing/fake-grammar.js';
import { fakeOpfs } from './testing/fake-opfs.js';
import { fakePackage, someBytes } from './testing/fake-package.js';
import { fakeServer, type FakeServer } from './testing/fake-server.js';
import type { LoadOptions, LoadProgress, Message, Model, TextStream } from './types.js';
import { serveCalls } from './worker/calls.js';
import { createHost } from './worker/host.js';
import { wasmInstance } from './worker/wasm-instance.js';

const URL_PREFIX = 'https://example.org/tiny/';

let engines: FakeEngines;
let server: FakeServer;
let terminated: number;
/** What the hosts wait for before they have WebAssembly, and in `dispose`. */
let moduleFetched: Promise<void>;
let disposing: Promise<void>;

beforeEach(async () => {
  vi.stubGlobal('navigator', {});
  engines = fakeEngines();
  server = fakeServer((await fakePackage({ s1: someBytes(9000, 1) })).files);
  terminated = 0;
  moduleFetched = disposing = Promise.resolve();
});
afterEach(() => vi.unstubAllGlobals());

/** A host behind a message channel, with structured clones as with a real worker. */
function fakeWorker(): Worker {
  const { port1, port2 } = new MessageChannel();
  const adapter = { vendor: '', architecture: '', device: '', description: '', limits: {}, software: true };
  const instance = wasmInstance(engines.module);
  const host = createHost({
    emit: (event, transfer = []) => port2.postMessage({ haikuqEvent: event }, transfer),
    grammarModule: async () => fakeGrammar,
    engineModule: () => moduleFetched.then(() => instance),
    describeAdapter: async () => adapter,
    network: server.network,
    onTrap: () => () => undefined,
  });
  const { dispose } = host;
  host.dispose = () => disposing.then(dispose);
  serveCalls(host, port2);
  port2.start();
  port1.start();
  const listeners: Record<string, unknown> = {
    terminate() {
      terminated += 1;
      port1.close();
    },
  };
  return Object.assign(port1, listeners) as unknown as Worker;
}
const loadModel = (options: LoadOptions = {}): Promise<Model> => load(URL_PREFIX, { worker: fakeWorker, ...options });

async function collect(stream: AsyncIterable<string>): Promise<string[]> {
  const pieces: string[] = [];
  for await (const piece of stream) pieces.push(piece);
  return pieces;
}
const slowly = () => new Promise<void>((resolve) => setTimeout(resolve, 1));

describe('load', () => {
  it('brings a model, and its progress', async () => {
    const progress: LoadProgress[] = [];
    const model = await loadModel({ onProgress: (now) => progress.push(now) });
    expect(model.info).toMatchObject({ name: 'tiny', vocabSize: 2, adapter: { software: true } });
    expect(progress.at(-1)?.phase).toBe('ready');
    expect(await model.memory()).toEqual({ weights: 1, cache: 2, scratch: 3, wasm: 4 });
    expect((await model.profile({ promptTokens: 7 })).steps).toMatchObject([
      { phase: 'prefill', tokens: 7, depth: 0 },
      { phase: 'decode', tokens: 1, depth: 7 },
    ]);
    await expect(model.profile({ promptTokens: 1 })).rejects.toMatchObject({ code: 'invalid-argument' });
    await model.dispose();
    expect(terminated).toBe(1);
  });

  it('carries errors across whole, and ends the worker', async () => {
    server.files.set('s1', someBytes(9000, 2));
    const error: unknown = await loadModel().catch((e: unknown) => e);
    expect(error).toBeInstanceOf(HaikuqError);
    expect(error).toMatchObject({ code: 'integrity', details: { file: 's1' }, message: expect.stringContaining('s1') as string });
    expect(terminated).toBe(1);
  });

  it('sends the caller’s headers, and leaves the hash out of URLs where asked to', async () => {
    const seen: (string | null)[] = [];
    const { fetch } = server.network;
    server.network.fetch = (url, init) => {
      seen.push(new Headers(init.headers).get('authorization'));
      return fetch(url, init);
    };
    let token = 0;
    await (await loadModel({ headers: () => ({ Authorization: `Bearer ${++token}` }), sha256Query: false })).dispose();
    expect(seen).toEqual(['Bearer 1', 'Bearer 2']);
    expect(server.requests.map(({ sha256 }) => sha256)).toEqual([null, null]);
    await (await loadModel({ headers: { Authorization: 'Bearer x' } })).dispose();
    expect(seen.slice(2)).toEqual(['Bearer x', 'Bearer x']);
    expect(server.requests.at(-1)?.sha256).toHaveLength(64);
    await expect(loadModel({ headers: { 'no name': '' } })).rejects.toMatchObject({ code: 'invalid-argument' });
  });

  it('fetches with the caller’s function', async () => {
    const own = vi.fn(server.network.fetch);
    server.network = { ...server.network, fetch: () => Promise.reject(new TypeError('not to be called')) };
    await (await loadModel({ fetch: own })).dispose();
    expect(own.mock.calls.map(([url]) => new URL(url).pathname)).toEqual(['/tiny/haikuq.json', '/tiny/s1']);
  });

  describe('where storage opens and then refuses', () => {
    const warned = vi.spyOn(console, 'warn').mockImplementation(() => undefined);
    afterEach(() => warned.mockClear());
    const refusals: [string, Parameters<typeof fakeOpfs>[0]['refuse']][] = [
      ['records', 'createWritable'],
      ['files in place', 'createSyncAccessHandle'],
      ['bytes', 'write'],
    ];

    it.each(refusals)('%s, goes on with what there is besides', async (_, refuse) => {
      vi.stubGlobal('navigator', { storage: fakeOpfs({ sync: true, refuse }).storage });
      vi.stubGlobal('caches', fakeCaches());
      await (await loadModel()).dispose();
      expect(warned).toHaveBeenCalledOnce();
      expect(await listStored()).toEqual([expect.objectContaining({ complete: true, store: 'cache-api' })]);
      vi.stubGlobal('caches', undefined);
      await (await loadModel()).dispose();
      expect(await listStored()).toEqual([]);
      await expect(loadModel({ cache: 'opfs' })).rejects.toMatchObject({
        code: 'invalid-argument',
        message: expect.stringContaining('refused') as string,
      });
    });
  });

  it('goes on without storage in a sandboxed frame, where asking for it throws', async () => {
    const denied = () => {
      throw new DOMException('denied', 'SecurityError');
    };
    vi.stubGlobal('navigator', {
      storage: { getDirectory: async () => denied(), persisted: async () => denied(), estimate: async () => denied() },
    });
    Object.defineProperty(globalThis, 'caches', { configurable: true, get: denied });
    try {
      await (await loadModel()).dispose();
      expect(await listStored()).toEqual([]);
      expect(await storageUse()).toEqual({ packageBytes: 0, persisted: false });
      await removeStored(URL_PREFIX);
    } finally {
      Reflect.deleteProperty(globalThis, 'caches');
    }
  });

  it('is aborted by its signal, before and during', async () => {
    await expect(loadModel({ signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'aborted' });
    expect(terminated).toBe(0);
    server.trouble.set('s1', [{ stallAfter: 2000 }]);
    const controller = new AbortController();
    const loading = loadModel({ signal: controller.signal });
    setTimeout(() => controller.abort(), 30);
    await expect(loading).rejects.toMatchObject({ code: 'aborted' });
    await vi.waitUntil(() => terminated === 1);
  });

  describe('that is aborted', () => {
    let controller: AbortController;
    let resolveModule: () => void;
    let telling: LoadProgress[];
    let loading: Promise<Model>;
    beforeEach(async () => {
      controller = new AbortController();
      telling = [];
      moduleFetched = new Promise((resolve) => (resolveModule = resolve));
      loading = loadModel({ signal: controller.signal, onProgress: (now) => telling.push(now) });
      loading.catch(() => undefined);
      await vi.waitUntil(() => telling.length > 0);
    });

    it('rejects at once while WebAssembly is fetched, and ends the worker when that is late', async () => {
      vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
      try {
        controller.abort();
        await expect(loading).rejects.toMatchObject({ code: 'aborted' });
        expect(terminated).toBe(0);
        await vi.runAllTimersAsync();
        expect(terminated).toBe(1);
      } finally {
        vi.useRealTimers();
      }
    });

    it('makes no engine afterwards', async () => {
      controller.abort();
      await expect(loading).rejects.toMatchObject({ code: 'aborted' });
      const told = telling.length;
      resolveModule();
      await vi.waitUntil(() => terminated === 1);
      expect(engines.made).toEqual([]);
      expect(telling).toHaveLength(told);
    });
  });

  it('fails in time where the host does not answer any more', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    try {
      engines.beforeLoad = () => {
        disposing = new Promise(() => undefined);
        throw Object.assign(new Error('too small'), { code: 'unsupported-device', details: {} });
      };
      const loading = loadModel();
      const failed = expect(loading).rejects.toMatchObject({ code: 'unsupported-device' });
      const clock = setInterval(() => void vi.advanceTimersByTimeAsync(500), 5);
      await failed;
      clearInterval(clock);
      expect(terminated).toBe(1);
    } finally {
      vi.useRealTimers();
    }
  });

  it.each([
    [{ cache: 'disk' }, 'cache is "disk"'],
    [{ contextSize: 0 }, 'contextSize is 0'],
    [{ worker: 'yes' }, 'worker is "yes"'],
    [{ device: { powerPreference: 'max' } }, 'device.powerPreference is "max"'],
  ])('refuses %j', async (options, message) => {
    await expect(loadModel(options as LoadOptions)).rejects.toMatchObject({
      code: 'invalid-argument',
      message: expect.stringContaining(message) as string,
    });
  });

  it('says so where the worker cannot begin', async () => {
    const broken = new EventTarget() as EventTarget & { terminate(): void; postMessage(): void };
    broken.terminate = () => undefined;
    broken.postMessage = () => void queueMicrotask(() => broken.dispatchEvent(new Event('error')));
    await expect(load(URL_PREFIX, { worker: () => broken as unknown as Worker })).rejects.toMatchObject({
      code: 'internal',
      message: expect.stringContaining('script') as string,
    });
  });

  it('survives callbacks that throw, and lets the page hear of it', async () => {
    const tasks: (() => void)[] = [];
    const onProgress = () => {
      vi.stubGlobal('queueMicrotask', (task: () => void) => tasks.push(task));
      throw new Error('mine');
    };
    const model = await loadModel({ onProgress });
    expect(tasks[0]).toThrow('mine');
    await model.dispose();
  });
});

describe('a chat template', () => {
  const user = (content: string) => ({ role: 'user', content });
  const said = async (...args: Parameters<Model['chat']>) => (await loadModel()).chat(...args).text();

  it('leaves a last message of the assistant open, and the answer goes on with it', async () => {
    const begun = [user('Hi'), { role: 'assistant', content: 'Well' }];
    expect(await said(begun)).toBe('You said: <user>Hi<assistant>Well');
    expect(await said(begun, { continueFinalMessage: false })).toBe('You said: <user>Hi<assistant>Well<assistant>');
    expect(await said([user('Hi')], { continueFinalMessage: true })).toBe('You said: <user>Hi');
  });

  it('gets tools, documents and variables, also to count', async () => {
    const tools = [{ type: 'function', function: { name: 'now' } }];
    const given = { tools, documents: [{ title: 't', text: 'x' }], chatTemplateKwargs: { enable_thinking: false } };
    const text = `${JSON.stringify(given)}<user>Hi<assistant>`;
    expect(await said([user('Hi')], given)).toBe(`You said: ${text}`);
    expect(await (await loadModel()).countTokens([user('Hi')], given)).toBe(text.length);
  });

  it('gets the fields of messages that JSON can say, and null where a message only calls tools', async () => {
    const calls = [{ type: 'function', function: { name: 'now', arguments: {} } }];
    const self: Record<string, unknown> = {};
    self.self = self;
    const messages = [
      { role: 'user', content: 'When?', onClick: () => undefined, self, ids: Uint32Array.of(1), id: 7 },
      { role: 'assistant', content: null, tool_calls: calls },
      { role: 'tool', content: '12:00', name: 'now', tool_call_id: 'a' },
    ] as unknown as Message[];
    expect(checkChat(messages, {}).messages).toEqual([
      { role: 'user', content: 'When?', id: 7 },
      { role: 'assistant', content: null, tool_calls: calls },
      { role: 'tool', content: '12:00', name: 'now', tool_call_id: 'a' },
    ]);
  });

  it('gets integers of any size up to 128 bits, as bigint', async () => {
    const number = (digits: string) => ({ '\u0000number': digits });
    const calls = [{ function: { arguments: { id: 2n ** 64n } } }];
    const messages = [{ role: 'assistant', content: 'x', tool_calls: calls }] as unknown as Message[];
    const given = { tools: [{ maximum: 2n ** 128n - 1n }], documents: [{ n: -(2n ** 127n) }], chatTemplateKwargs: { v: 7n } };
    const chat = checkChat(messages, given);
    expect(chat.messages[0]?.tool_calls).toEqual([{ function: { arguments: { id: number('18446744073709551616') } } }]);
    expect(chat.tools).toEqual([{ maximum: number('340282366920938463463374607431768211455') }]);
    expect(chat.documents).toEqual([{ n: number('-170141183460469231731687303715884105728') }]);
    expect(chat.chatTemplateKwargs).toEqual({ v: number('7') });
    // As pages have JSON.stringify write them.
    const prototype = BigInt.prototype as { toJSON?: () => string };
    prototype.toJSON = function (this: bigint) {
      return this.toString();
    };
    try {
      expect(checkChat(messages, given)).toEqual(chat);
    } finally {
      delete prototype.toJSON;
    }
    expect(() => checkChat([{ role: 'user', content: 'x', n: 2n ** 128n }] as unknown as Message[], {})).toThrow('messages[0].n');
  });

  it.each([
    ['tools', {}],
    ['tools', ['now']],
    ['chatTemplateKwargs', []],
    ['chatTemplateKwargs', { n: 2n ** 128n }],
    ['tools', [{ maximum: -(2n ** 127n) - 1n }]],
    ['continueFinalMessage', 'yes'],
  ])('is refused %s of %o', async (name, value) => {
    await expect(said([user('Hi')], { [name]: value })).rejects.toMatchObject({
      code: 'invalid-argument',
      message: expect.stringContaining(name) as string,
    });
  });
});

describe('a model', () => {
  let model: Model;
  beforeEach(async () => {
    model = await loadModel();
  });
  afterEach(() => model.dispose());

  it('streams', async () => {
    const stream = model.chat([{ role: 'user', content: 'Hi' }]);
    const pieces = await collect(stream);
    expect(pieces.length).toBeGreaterThan(5);
    expect(pieces.join('')).toBe('You said: <user>Hi<assistant>');
    const result = await stream.result;
    expect(result).toMatchObject({ text: pieces.join(''), finish: 'stop', answeredBy: 'local' });
    expect(result.ids).toEqual(encode(pieces.join('')));
    expect(result.trimmed).toBeUndefined();
    expect(await stream.text()).toBe(result.text);
    expect(() => stream[Symbol.asyncIterator]()).toThrow(/only once/);
  });

  it('gives a result that nobody iterates', async () => {
    expect(await model.generate('Hi').text()).toBe('You said: Hi');
  });

  it('writes batches', async () => {
    const stream = model.generate(['a', 'b']);
    const texts = ['', ''];
    for await (const { index, text } of stream) texts[index] += text;
    expect(texts).toEqual(['You said: a', 'You said: b']);
    expect((await stream.result).map(({ text }) => text)).toEqual(texts);
  });

  it('draws a seed where there is none, and tells the engine nothing else that was not asked', async () => {
    await model.generate('a').result;
    await model.generate('a', { temperature: 0.5, stop: 'x', seed: 7, maxTokens: 3 }).result;
    const [first, second] = engines.made[0]?.requests ?? [];
    expect(first).toEqual({ prompt: encode('a'), seed: expect.any(Number) as number });
    expect(second).toEqual({ prompt: encode('a'), seed: 7, temperature: 0.5, stop: ['x'], maxTokens: 3 });
  });

  it('is ended by abort(): the iteration ends, the result is cancelled', async () => {
    engines.beforeToken = slowly;
    const stream = model.generate('a');
    const pieces: string[] = [];
    for await (const piece of stream) {
      pieces.push(piece);
      if (pieces.length === 3) stream.abort();
    }
    expect(pieces).toHaveLength(3);
    const result = await stream.result;
    expect(result.finish).toBe('cancelled');
    expect(result.text.startsWith('You')).toBe(true);
    expect(await stream.text()).toBe(result.text);
  });

  it('is ended by leaving the loop', async () => {
    engines.beforeToken = slowly;
    const stream = model.generate('a');
    for await (const _ of stream) break;
    expect((await stream.result).finish).toBe('cancelled');
    expect(await model.generate('b').text()).toBe('You said: b');
  });

  it('is ended by a signal: the iteration throws, the result is cancelled', async () => {
    engines.beforeToken = slowly;
    const controller = new AbortController();
    const stream = model.generate('a', { signal: controller.signal });
    const reading = (async () => {
      for await (const piece of stream) if (piece === 'o') controller.abort();
    })();
    await expect(reading).rejects.toMatchObject({ code: 'aborted' });
    expect((await stream.result).finish).toBe('cancelled');
    await expect(stream.text()).rejects.toMatchObject({ code: 'aborted' });
  });

  it('does not begin with a signal that is aborted', async () => {
    const stream = model.generate('a', { signal: AbortSignal.abort() });
    await expect(collect(stream)).rejects.toMatchObject({ code: 'aborted' });
    expect(await stream.result).toMatchObject({ finish: 'cancelled', text: '', usage: { promptTokens: 0 } });
    expect(engines.made[0]?.requests).toEqual([]);
  });

  it('is not ended by a signal that aborts too late', async () => {
    const controller = new AbortController();
    const stream = model.generate('a', { signal: controller.signal });
    await stream.result;
    controller.abort();
    expect((await collect(stream)).join('')).toBe('You said: a');
  });

  it.each([
    [{ temperature: -1 }, 'temperature is -1'],
    [{ temperature: NaN }, 'temperature is NaN'],
    [{ topP: 0 }, 'topP is 0'],
    [{ minP: 2 }, 'minP is 2'],
    [{ topK: 1.5 }, 'topK is 1.5'],
    [{ repetitionPenalty: 0 }, 'repetitionPenalty is 0'],
    [{ maxTokens: -1 }, 'maxTokens is -1'],
    [{ maxTokens: 2 ** 32 }, 'maxTokens is 4294967296'],
    [{ seed: 'x' }, 'seed is "x"'],
    [{ stop: ['a', ''] }, 'stop is ["a",""]'],
    [{ signal: {} }, 'signal is {}'],
    [{ overflow: 'shrink' }, 'overflow is "shrink"'],
    [{ reserve: -5 }, 'reserve is -5'],
  ])('refuses %j, naming it', async (options, message) => {
    const stream = model.chat([{ role: 'user', content: 'Hi' }], options as object);
    const expected = { code: 'invalid-argument', message: expect.stringContaining(message) as string };
    await expect(stream.result).rejects.toMatchObject(expected);
    await expect(collect(stream)).rejects.toMatchObject(expected);
  });

  it.each([
    [[]],
    ['Hi'],
    [[{ role: 'user' }]],
    [[{ role: '', content: '' }]],
    [[null]],
    [[{ role: 'user', content: [{ type: 'text', text: 'Hi' }] }]],
  ])('refuses the messages %j', async (messages) => {
    await expect(model.chat(messages as never).result).rejects.toMatchObject({
      code: 'invalid-argument',
      message: expect.stringContaining('messages') as string,
    });
  });

  it('takes no notice of what else is in a message', async () => {
    const message = { role: 'user', content: 'Hi', onClick: () => undefined };
    expect(await model.chat([message]).text()).toBe('You said: <user>Hi<assistant>');
  });

  it('counts, tokenizes, scores, and continues', async () => {
    expect(await model.countTokens('abc')).toBe(3);
    expect(await model.countTokens([{ role: 'user', content: 'Hi' }])).toBe(19);
    expect(await model.detokenize(await model.tokenize('abc'))).toBe('abc');
    expect(await model.continueGreedily(encode('x'), 3)).toEqual(encode('You'));
    const rows: number[][] = [];
    await model.score(encode('abc'), (first, logits) => rows.push([first, ...logits]));
    expect(rows).toEqual([
      [0, 0, 0, 1, 1],
      [2, 2, 2],
    ]);
    const failing = model.score(encode('abc'), () => {
      throw new Error('mine');
    });
    await expect(failing).rejects.toThrow('mine');
  });

  it('raises no unhandled rejection when nobody looks', async () => {
    // The test runner fails for those that there are.
    engines.beforeToken = () => {
      throw new Error('defect');
    };
    model.generate('a');
    model.generate(['a', 'b']);
    model.chat([]);
    await new Promise((resolve) => setTimeout(resolve, 20));
  });

  it('refuses calls after dispose, and ends those before it', async () => {
    engines.beforeToken = slowly;
    const running = model.generate('a');
    const queued = model.chat([{ role: 'user', content: 'b' }]);
    await model.dispose();
    expect((await running.result).finish).toBe('cancelled');
    expect((await queued.result).finish).toBe('cancelled');
    const calls: Promise<unknown>[] = [
      model.generate('a').result,
      model.chat([{ role: 'user', content: 'Hi' }]).text(),
      model.countTokens('a'),
      model.memory(),
      model.profile(),
    ];
    for (const call of calls)
      await expect(call).rejects.toMatchObject({ code: 'invalid-argument', message: expect.stringContaining('disposed') as string });
    await model.dispose();
    expect(terminated).toBe(1);
  });

  it('recovers a lost device and says so', async () => {
    const told: boolean[] = [];
    const other = await loadModel({ onDeviceLost: ({ recovered }) => told.push(recovered) });
    await other.loseDevice();
    const stream: TextStream = other.generate('a');
    expect(await stream.text()).toBe('You said: a');
    expect((await stream.result).recoveries).toBe(1);
    expect(told).toEqual([false, true]);
    await other.dispose();
  });
});
