/** The host owns the package and the engine, and serves one model: in a worker, or on the page's own thread. */

import type { Engine, EngineOptions, OnEngineProgress, Source } from '../engine/engine.js';
import { HaikuqError } from '../errors.js';
import { fitContext, overflowError } from '../context.js';
import { throwIfAborted, toHaikuqError } from '../failures.js';
import { type BlobStore, refusedStore } from '../store/blobs.js';
import type { Network } from '../store/fetch.js';
import { type Hasher, hasherHere } from '../store/hash.js';
import { forgetUnfinished, type KernelTimes, openPackage, type OpenOptions, type OpenPackage } from '../store/open-package.js';
import { networkOf } from '../store/page-requests.js';
import { stageClock } from '../store/stages.js';
import type { DeviceOptions, ModelInfo, ModelProfile, Trimmed } from '../types.js';
import type { AdapterFacts } from './adapter.js';
import { createFormats } from './formats.js';
import type { GrammarModule } from '../engine/grammar.js';
import { createEngineKeeper, type EngineKeeper } from './engine-keeper.js';
import { progressReporter } from './progress.js';
import type { CallId, Emit, Host, LoadRequest, WriteRequest, Written } from './protocol.js';
import { createQueue } from './queue.js';
import type { OnTrap } from './traps.js';
import type { WasmInstance } from './wasm-instance.js';
import { nothingWritten, startWriting, type Writing } from './writing.js';

export interface HostOptions {
  emit: Emit;
  engineModule: () => Promise<WasmInstance>;
  /** Loaded for the first request that has a format. */
  grammarModule: () => Promise<GrammarModule>;
  /** `adapter` is what the facts are of: the first engine gets its device from it. */
  describeAdapter: (options: DeviceOptions) => Promise<AdapterFacts & { adapter?: GPUAdapter }>;
  network: Network;
  onTrap: OnTrap;
  /** Default: hashing on the calling thread. */
  hasher?: Hasher;
  now?: () => number;
}

/** What there is once a package is loaded. */
interface Loaded {
  openPackage: OpenPackage;
  keeper: EngineKeeper;
  info: ModelInfo;
  eosTokenIds: number[];
}

/** What the tries of one load share. */
interface LoadParts {
  facts: AdapterFacts;
  /** The adapter that was described, once. */
  take: () => GPUAdapter | undefined;
  refused: ReadonlySet<BlobStore['kind']>;
}

export function createHost(options: HostOptions): Host {
  const {
    emit,
    engineModule,
    grammarModule,
    describeAdapter,
    network,
    onTrap,
    hasher = hasherHere,
    now = () => performance.now(),
  } = options;
  const calls = new Map<CallId, AbortController>();
  const queue = createQueue();
  const formats = createFormats(grammarModule);
  let loaded: Loaded | undefined;

  /** Runs `work` with a signal that `cancel` aborts. */
  async function cancellable<T>(call: CallId, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const controller = new AbortController();
    calls.set(call, controller);
    try {
      return await work(controller.signal);
    } catch (error) {
      throw toHaikuqError(error);
    } finally {
      calls.delete(call);
    }
  }

  function model(): Loaded {
    if (!loaded) throw new HaikuqError('invalid-argument', 'the model is not loaded');
    return loaded;
  }

  /** For what needs no GPU: at any time, with whatever engine there is. */
  async function withEngine<T>(work: (engine: Engine) => T): Promise<T> {
    const { value } = await model().keeper.use(async (engine) => work(engine));
    return value;
  }

  async function load(request: LoadRequest, signal: AbortSignal): Promise<Loaded> {
    const { cache = 'auto', device = {} } = request;
    const { adapter, ...facts } = await describeAdapter(device);
    const unused = [adapter];
    const refused = new Set<BlobStore['kind']>();
    for (;;) {
      throwIfAborted(signal, 'loading');
      try {
        return await loadFrom({ ...request, cache }, { facts, take: () => unused.pop(), refused }, signal);
      } catch (error) {
        const store = refusedStore(error);
        if (!store) throw error;
        const { message } = toHaikuqError(error);
        if (cache !== 'auto')
          throw new HaikuqError('invalid-argument', `cache: ${message}; load with 'auto' or 'none'`, {}, { cause: error });
        // Without it: nothing is kept, or elsewhere.
        console.warn(`haikuq: ${message}`);
        await forgetUnfinished(request.location, store);
        refused.add(store);
      }
    }
  }

  async function loadFrom(request: LoadRequest & Pick<OpenOptions, 'cache'>, using: LoadParts, signal: AbortSignal): Promise<Loaded> {
    const { location, cache, sha256Query } = request;
    const { facts: adapter, take, refused } = using;
    const progress = progressReporter((progress) => emit({ type: 'progress', progress }), now);
    const stages = stageClock(now);
    const opened = await openPackage(location, {
      cache,
      refused,
      sha256Query,
      network: networkOf(network, request, emit),
      signal,
      stages,
      hasher,
      onProgress: progress.downloaded,
    });
    let keeper: EngineKeeper | undefined;
    try {
      throwIfAborted(signal, 'loading');
      progress.manifest(opened.manifest.shards.reduce((sum, shard) => sum + shard.bytes, 0));
      const told: OnEngineProgress = (bytes, total, kernels = 0, totalKernels = 0) =>
        totalKernels > 0 ? progress.compiled(kernels, totalKernels) : progress.uploaded(bytes, total);
      const instance = await engineModule();
      throwIfAborted(signal, 'loading');
      keeper = createEngineKeeper({
        make: async () => {
          const { kernelTimes } = opened;
          const options = await engineOptions(request, kernelTimes);
          // An adapter gives one device.
          const given = take();
          const engine = await instance.Engine.load(
            abortable(opened.newSource(), signal),
            { ...options, ...(given ? { adapter: given } : {}) },
            told,
          );
          const measured = engine.kernelTimes();
          if (measured !== undefined) await kernelTimes?.write(measured);
          return engine;
        },
        instance,
        onTrap,
        onDeviceLost: (event) => emit({ type: 'device-lost', ...event }),
      });
      const { eosTokenIds, f16, subgroups, maxBatch: _, ...facts } = (await keeper.get()).facts();
      // Engines made later replace a lost one; the load is over.
      // Should this fail, the next load finds all files and tries again.
      await opened.markComplete().catch(() => undefined);
      throwIfAborted(signal, 'loading');
      progress.ready(stages.stages());
      const info = { ...facts, name: location.name, adapter: { ...adapter, f16, subgroups } };
      return { openPackage: opened, keeper, info, eosTokenIds };
    } catch (error) {
      await keeper?.free();
      await opened.close();
      throw error;
    }
  }

  async function write(call: CallId, request: WriteRequest, signal: AbortSignal): Promise<Written> {
    const started = now();
    let writing: Writing | undefined;
    let trimmed: Trimmed | undefined;

    async function attempt(engine: Engine): Promise<void> {
      if (!writing) {
        const fitted = encodePrompts(engine, request, model().info.contextSize);
        trimmed = fitted.trimmed;
        const onText = (index: number, text: string) => emit({ type: 'text', call, index, text });
        writing = startWriting({ prompts: fitted.prompts, options: request.options, formats, signal, started, onText, now });
      }
      await writing.continue(engine);
    }
    const done = await queue.run(signal, () => model().keeper.use(attempt));
    const results = done && writing?.results(done.losses);
    return { results: results ?? nothingWritten(request.kind === 'chat' ? 1 : request.prompts.length), ...(trimmed ? { trimmed } : {}) };
  }

  async function score(call: CallId, ids: Uint32Array, signal: AbortSignal): Promise<void> {
    const { keeper, info } = model();
    let next = 0;
    function onRows(first: number, logits: Float32Array): void {
      const end = first + logits.length / info.vocabSize;
      if (end <= next) return;
      // After a lost device scoring starts again; what was told before is not told twice.
      const begin = Math.max(first, next);
      const rows = logits.slice((begin - first) * info.vocabSize);
      next = end;
      emit({ type: 'rows', call, first: begin, logits: rows }, [rows.buffer]);
    }
    await queue.run(signal, () => keeper.use((engine) => engine.score(ids, onRows)));
  }

  /** An end token is to be in the result, so the engine would go on after it and is told to stop. */
  async function continueGreedily(prompt: Uint32Array, maxTokens: number): Promise<Uint32Array> {
    const { keeper, eosTokenIds } = model();
    const ids: number[] = [];
    const ended = () => eosTokenIds.includes(ids.at(-1) ?? -1);
    const options = { maxTokens, temperature: 0, repetitionPenalty: 1, ignoreEos: true };

    function onToken(_: number, id: number | undefined): boolean {
      if (id !== undefined) ids.push(id);
      return !ended();
    }
    async function attempt(engine: Engine): Promise<void> {
      if (ended()) return;
      await engine.generate([{ ...options, prompt, ...(ids.length > 0 ? { written: Uint32Array.from(ids) } : {}) }], onToken);
    }
    await queue.run(undefined, () => keeper.use(attempt));
    return Uint32Array.from(ids);
  }

  async function profile(promptTokens: number): Promise<ModelProfile> {
    const done = await queue.run(undefined, () => model().keeper.use((engine) => engine.profile(promptTokens)));
    // Without a signal nothing leaves the queue.
    return done!.value;
  }

  let internalCalls = -1;
  /** Calls that nobody can name still end when the model is disposed, and their errors are typed. */
  const unnamed = <T>(work: (signal: AbortSignal) => Promise<T>) => cancellable(internalCalls--, work);

  return {
    load: (call, request) =>
      cancellable(call, async (signal) => {
        loaded = await load(request, signal);
        return loaded.info;
      }),
    write: (call, request) => cancellable(call, (signal) => write(call, request, signal)),
    async cancel(call) {
      calls.get(call)?.abort();
    },
    countTokens: (text) =>
      unnamed(() =>
        withEngine((engine) => (typeof text === 'string' ? engine.encode(text, false) : engine.encodeChat(JSON.stringify(text))).length),
      ),
    tokenize: (text, controlTokens) => unnamed(() => withEngine((engine) => engine.encode(text, controlTokens))),
    detokenize: (ids) => unnamed(() => withEngine((engine) => engine.decode(ids))),
    score: (call, ids) => cancellable(call, (signal) => score(call, ids, signal)),
    continueGreedily: (prompt, maxTokens) => unnamed(() => continueGreedily(prompt, maxTokens)),
    memory: () => unnamed(() => withEngine((engine) => engine.memory())),
    profile: (promptTokens) => unnamed(() => profile(promptTokens)),
    loseDevice: () => unnamed(() => withEngine((engine) => engine.loseDevice())),
    async dispose() {
      for (const controller of calls.values()) controller.abort();
      await queue.run(undefined, async () => {
        await loaded?.keeper.free();
        await loaded?.openPackage.close();
      });
    },
  };
}

function encodePrompts(engine: Engine, request: WriteRequest, contextSize: number): { prompts: Uint32Array[]; trimmed?: Trimmed } {
  if (request.kind === 'generate') {
    const prompts = request.prompts.map((prompt) => engine.encode(prompt, request.controlTokens));
    // All of them before any is written: a batch of hundreds is not to end at its last prompt.
    prompts.forEach(({ length }, i) => {
      const name = prompts.length === 1 ? 'prompt' : `prompts[${i}]`;
      if (length > contextSize) throw overflowError(length, contextSize, `${name} does not fit`);
    });
    return { prompts };
  }
  const { chat, overflow, reserve } = request;
  const fit = { contextSize, overflow, reserve, maxTokens: request.options.maxTokens };
  const { prompt, trimmed } = fitContext(chat.messages, (messages) => engine.encodeChat(JSON.stringify({ ...chat, messages })), fit);
  return { prompts: [prompt], ...(trimmed ? { trimmed } : {}) };
}

/** Kernels are measured only where that is kept: a page that stores nothing would do it at every load. */
async function engineOptions(request: LoadRequest, kept: KernelTimes | undefined): Promise<EngineOptions> {
  const { contextSize, kvCache, numerics, device } = request;
  const kernels = kept ? request.kernels : 'table';
  const kernelTimes = kernels === 'table' ? undefined : await kept?.read();
  const { pins, ...asked } = device ?? {};
  return {
    ...asked,
    ...(pins === undefined
      ? {}
      : {
          pins: Object.entries(pins)
            .map((pin) => pin.join('='))
            .join(','),
        }),
    ...(contextSize === undefined ? {} : { contextSize }),
    ...(kvCache === undefined ? {} : { kvCache }),
    ...(numerics === undefined ? {} : { numerics }),
    ...(kernels === undefined ? {} : { kernels }),
    ...(kernelTimes === undefined ? {} : { kernelTimes }),
  };
}

/** Reading stops when the load is aborted, also where everything is stored. */
function abortable(source: Source, signal: AbortSignal): Source {
  return {
    async read(file, start, end) {
      throwIfAborted(signal, 'loading');
      return source.read(file, start, end);
    },
    async hold(file) {
      throwIfAborted(signal, 'loading');
      return source.hold(file);
    },
    refresh: (file) => source.refresh(file),
  };
}
