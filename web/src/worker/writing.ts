/** One call's texts as they are written, from one engine or, after a lost device, from several. */

import type { Engine, EngineCompletion, EngineRequest } from '../engine/engine.js';
import type { GenerationResult } from '../types.js';
import type { WriteOptions } from './protocol.js';

/** Texts that an engine writes together; more are written in groups, one after the other. */
const MAX_BATCH = 8;

interface Text {
  ids: number[];
  text: string;
  firstTokenAt?: number;
  lastTokenAt?: number;
}

export interface Writing {
  /** Writes on with this engine, from where the one before stopped. */
  continue(engine: Engine): Promise<void>;
  /** After `continue` has returned, or when it is not to be called any more. */
  results(losses: number): GenerationResult[];
}

export interface WritingOptions {
  prompts: Uint32Array[];
  options: WriteOptions;
  signal: AbortSignal;
  /** When the call was made, by `now`. */
  started: number;
  onText: (index: number, text: string) => void;
  now: () => number;
}

export function startWriting({ prompts, options, signal, started, onText, now }: WritingOptions): Writing {
  const texts = prompts.map((): Text => ({ ids: [], text: '' }));
  const completions: EngineCompletion[] = [];
  const { seed, seedStep, ...told } = options;

  function onToken(index: number, id: number | undefined, text: string): boolean {
    const written = texts[index] as Text;
    if (id !== undefined) {
      written.ids.push(id);
      written.lastTokenAt = now();
      written.firstTokenAt ??= written.lastTokenAt;
    }
    if (text !== '') {
      written.text += text;
      onText(index, text);
    }
    return !signal.aborted;
  }
  function request(prompt: Uint32Array, index: number): EngineRequest {
    const { ids } = texts[index] as Text;
    return { ...told, seed: seed + index * seedStep, prompt, ...(ids.length > 0 ? { written: Uint32Array.from(ids) } : {}) };
  }
  return {
    async continue(engine) {
      while (completions.length < prompts.length && !signal.aborted) {
        const first = completions.length;
        const requests = prompts.map(request).slice(first, first + MAX_BATCH);
        const group = await engine.generate(requests, (index, id, text) => onToken(first + index, id, text));
        completions.push(...group);
      }
    },
    results(losses) {
      return texts.map((text, i) => result(text, completions[i] ?? cancelled(text, prompts[i] as Uint32Array), started, losses));
    },
  };
}

/** The result of texts that were cancelled before an engine saw them. */
export function nothingWritten(count: number): GenerationResult[] {
  const text: Text = { ids: [], text: '' };
  return Array.from({ length: count }, () => result(text, cancelled(text, new Uint32Array()), 0, 0));
}

function result(text: Text, completion: EngineCompletion, started: number, losses: number): GenerationResult {
  const { promptTokens, reusedTokens, completionTokens } = completion;
  const { firstTokenAt, lastTokenAt } = text;
  const timeToFirstTokenMs = firstTokenAt === undefined ? completion.timeToFirstTokenMs : firstTokenAt - started;
  // The engine knows the stop token's time too; but of a text begun by another engine it knows the end alone.
  const decodeMs = losses === 0 ? completion.decodeMs : (lastTokenAt ?? 0) - (firstTokenAt ?? 0);
  const tokensPerSecond = completionTokens > 1 && decodeMs > 0 ? ((completionTokens - 1) * 1000) / decodeMs : 0;
  return {
    // What was streamed, token by token: the engine that ended a text may not be the one that began it.
    text: text.text,
    ids: Uint32Array.from(text.ids),
    finish: completion.finish,
    usage: { promptTokens, reusedTokens, completionTokens },
    timings: { timeToFirstTokenMs, decodeMs, tokensPerSecond },
    recoveries: losses,
    answeredBy: 'local',
  };
}

function cancelled({ ids, text }: Text, prompt: Uint32Array): EngineCompletion {
  return {
    ids: Uint32Array.from(ids),
    text,
    finish: 'cancelled',
    promptTokens: prompt.length,
    reusedTokens: 0,
    completionTokens: ids.length,
    timeToFirstTokenMs: 0,
    decodeMs: 0,
  };
}
