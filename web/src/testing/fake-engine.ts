/**
 * An engine without a GPU that reads packages as the real one does (shards in order, in pieces, hashes checked, another copy
 * asked for once) and writes by rule: its tokens are characters, and its answer is what the test says.
 */

import type { Engine, EngineChat, EngineCompletion, EngineModule, EngineRequest, OnEngineProgress, Source } from '../engine/engine.js';
import { HaikuqError } from '../errors.js';
import { parseManifest, type PackageFile } from '../store/manifest.js';
import type { LoadRequest } from '../worker/protocol.js';
import { hex, sha256 } from './fake-package.js';

export interface FakeEngines {
  module: EngineModule;
  /** What is written for a prompt; an end token follows. */
  answer: (prompt: string) => string;
  contextSize: number;
  /** What the next engines have measured. */
  kernelTimes: string | undefined;
  /** Called before each token: throw to lose the device or to trap, wait to be slow. */
  beforeToken: (index: number, written: number) => void | Promise<void>;
  /** Called when an engine is made. */
  beforeLoad: () => void;
  /** All engines made, with what was asked of each. */
  made: { options: object; requests: EngineRequest[]; freed: boolean }[];
  resets: number;
  /** Generations at this moment; more than one is a defect. */
  running: number;
}

export const EOS = 0;
const PIECE = 4096;

export function fakeEngines(): FakeEngines {
  const engines: FakeEngines = {
    module: {
      default: async () => undefined,
      __wbg_reset_state: () => void (engines.resets += 1),
      Engine: { load: (source, options, onProgress) => load(engines, source, options, onProgress) },
    },
    answer: (prompt) => `You said: ${prompt}`,
    contextSize: 1000,
    kernelTimes: undefined,
    beforeToken: () => undefined,
    beforeLoad: () => undefined,
    made: [],
    resets: 0,
    running: 0,
  };
  return engines;
}

export const encode = (text: string) => Uint32Array.from(text, (character) => character.codePointAt(0) as number);
export const decode = (ids: Iterable<number>) => String.fromCodePoint(...ids);
/** Its template writes tools and variables as JSON before the messages. */
export function encodeChat(chat: string): Uint32Array {
  const { messages, continueFinalMessage, ...given } = JSON.parse(chat) as EngineChat;
  const before = Object.keys(given).length > 0 ? JSON.stringify(given) : '';
  const said = messages
    .map(({ role, content, ...fields }) => `<${role}>${content}${Object.keys(fields).length > 0 ? JSON.stringify(fields) : ''}`)
    .join('');
  return encode(before + said + (continueFinalMessage ? '' : '<assistant>'));
}

export const deviceLost = () => Object.assign(new Error('the device was lost: destroyed'), { code: 'device-lost', details: {} });

/** As `load` makes it of a URL. */
export const loadRequest = (prefix: string, more: Partial<LoadRequest> = {}): LoadRequest => ({
  location: { kind: 'url', name: 'test', prefix },
  ...more,
});

type OnProgress = OnEngineProgress;

async function load(engines: FakeEngines, source: Source, options: object, onProgress: OnProgress): Promise<Engine> {
  engines.beforeLoad();
  const manifest = parseManifest(new TextDecoder().decode(await source.read('haikuq.json', 0, 1 << 26)));
  for (const file of manifest.files) await readChecked(source, file);
  const total = manifest.shards.reduce((sum, shard) => sum + shard.bytes, 0);
  let uploaded = 0;
  for (const shard of manifest.shards) {
    await holdChecked(source, shard);
    uploaded += shard.bytes;
    onProgress(uploaded, total);
  }
  for (let compiled = 0; compiled <= 2; compiled++) onProgress(uploaded, total, compiled, 2);
  const made = { options, requests: [] as EngineRequest[], freed: false };
  engines.made.push(made);
  return engine(engines, made);
}

async function readChecked(source: Source, file: PackageFile): Promise<void> {
  for (;;) {
    const bytes = new Uint8Array(file.bytes);
    let at = 0;
    while (at < file.bytes) {
      const piece = await source.read(file.name, at, Math.min(at + PIECE, file.bytes));
      if (piece.length === 0) break;
      bytes.set(piece, at);
      at += piece.length;
    }
    if (at === file.bytes && (await sha256(bytes)) === file.sha256) return;
    if (!(await source.refresh(file.name))) throw new HaikuqError('integrity', `${file.name}: wrong hash`, { file: file.name });
  }
}

/** As a whole where the source has it so. */
async function holdChecked(source: Source, file: PackageFile): Promise<void> {
  for (;;) {
    const held = await source.hold(file.name);
    if (!held) return readChecked(source, file);
    const right = held.bytes.length === file.bytes && hex(held.sha256) === file.sha256;
    held.release();
    if (right) return;
    if (!(await source.refresh(file.name))) throw new HaikuqError('integrity', `${file.name}: wrong hash`, { file: file.name });
  }
}

function engine(engines: FakeEngines, made: FakeEngines['made'][number]): Engine {
  const methods = engineMethods(engines, made);
  const instance = engines.resets;
  // As in the generated module; that `free` does not look is the generated module's way too.
  for (const [name, method] of Object.entries(methods) as [keyof Engine, (...args: never[]) => unknown][]) {
    if (name === 'free') continue;
    const checked = (...args: never[]) => {
      if (instance !== engines.resets) throw new Error('Invalid stale object from previous Wasm instance');
      return method(...args);
    };
    Object.assign(methods, { [name]: checked });
  }
  return methods;
}

function engineMethods(engines: FakeEngines, made: FakeEngines['made'][number]): Engine {
  let lost = false;
  return {
    facts: () => ({
      version: '0.0.0',
      recipe: 'q4',
      bitsPerWeight: 4.5,
      parameters: 7,
      weightBytes: 4,
      vocabSize: 2,
      contextSize: engines.contextSize,
      maxBatch: 8,
      hasChatTemplate: true,
      numerics: 'exact',
      eosTokenIds: [EOS],
      f16: false,
      subgroups: null,
    }),
    kernelTimes: () => engines.kernelTimes,
    memory: () => ({ weights: 1, cache: 2, scratch: 3, wasm: 4 }),
    encode,
    encodeBare: encode,
    tokenBytes: () => ({ bytes: Uint8Array.of(97, 98), ends: Uint32Array.of(1, 2) }),
    decode,
    encodeChat,
    async generate(requests, onToken) {
      if (engines.running > 0) throw new Error('one generation at a time');
      engines.running += 1;
      made.requests.push(...requests);
      try {
        type Finish = EngineCompletion['finish'] | undefined;
        const texts = requests.map((request) => ({ request, ids: [...(request.written ?? [])], finish: undefined as Finish }));
        while (texts.some(({ finish }) => !finish)) {
          for (const [index, text] of texts.entries()) {
            if (text.finish) continue;
            await engines.beforeToken(index, text.ids.length);
            if (lost) throw deviceLost();
            const answer = encode(engines.answer(decode(text.request.prompt)));
            const id = answer[text.ids.length] ?? EOS;
            if (id === EOS && !text.request.ignoreEos) {
              text.finish = 'stop';
              continue;
            }
            text.ids.push(id);
            if (!onToken(index, id, decode([id]))) text.finish = 'cancelled';
            else if (text.ids.length === text.request.maxTokens) text.finish = 'length';
          }
        }
        return texts.map(({ request, ids, finish }) => ({
          ids: Uint32Array.from(ids),
          text: decode(ids),
          finish: finish as EngineCompletion['finish'],
          promptTokens: request.prompt.length,
          reusedTokens: 3,
          completionTokens: ids.length + (finish === 'stop' ? 1 : 0),
          timeToFirstTokenMs: 5,
          decodeMs: 10,
        }));
      } finally {
        engines.running -= 1;
      }
    },
    async score(ids, onRows) {
      const logits = new Float32Array(4);
      for (let first = 0; first < ids.length; first += 2) {
        await engines.beforeToken(0, first);
        if (lost) throw deviceLost();
        const rows = Math.min(2, ids.length - first);
        logits.set([first, first, first + 1, first + 1]);
        onRows(first, logits.subarray(0, rows * 2));
      }
    },
    async profile(promptTokens) {
      await engines.beforeToken(0, 0);
      if (lost) throw deviceLost();
      const times = { gpuMs: null, encodeMs: 1, submitMs: 2, waitMs: 3, dispatches: 0, operations: [] };
      const steps = [
        { phase: 'prefill' as const, tokens: promptTokens, depth: 0, ...times },
        { phase: 'decode' as const, tokens: 1, depth: promptTokens, ...times },
      ];
      return { steps, timestampMs: null, readBytesPerSecond: 1e9 };
    },
    loseDevice: () => void (lost = true),
    free: () => void (made.freed = true),
  };
}
