/** One call's texts as they are written, from one engine or, after a lost device, from several. */

import type { Engine, EngineCompletion, EngineRequest } from '../engine/engine.js';
import type { GenerationResult } from '../types.js';
import type { Formats } from './formats.js';
import type { WriteOptions } from './protocol.js';

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
  formats: Formats;
  signal: AbortSignal;
  /** When the call was made, by `now`. */
  started: number;
  onText: (index: number, text: string) => void;
  now: () => number;
}

export function startWriting({ prompts, options, formats, signal, started, onText, now }: WritingOptions): Writing {
  const texts = prompts.map((): Text => ({ ids: [], text: '' }));
  const completions: (EngineCompletion | undefined)[] = prompts.map(() => undefined);
  const { seed, seedStep, responseFormat, ...told } = options;

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
  /** An engine tells the ends of texts when a whole group is over. Of one that broke off, this is what shows. */
  function isFull({ ids }: Text): boolean {
    return ids.length > 0 && options.maxTokens !== undefined && ids.length >= options.maxTokens;
  }
  async function writeGroup(engine: Engine, group: number[]): Promise<void> {
    for (const i of group) {
      const text = texts[i] as Text;
      if (isFull(text)) completions[i] ??= ended(text, prompts[i] as Uint32Array, 'length');
    }
    const open = group.filter((i) => !completions[i]);
    if (open.length === 0) return;
    const held = responseFormat === undefined ? [] : await formats.constrain(engine, responseFormat, open.length);
    const requests = open.map((i, place) => {
      const of = request(prompts[i] as Uint32Array, i);
      const constraint = held[place]?.constraint;
      return constraint ? { ...of, constraint } : of;
    });
    try {
      const done = await engine.generate(requests, (index, id, text) => onToken(open[index] as number, id, text));
      open.forEach((i, place) => (completions[i] = done[place]));
    } finally {
      for (const { free } of held) free();
    }
  }
  return {
    async continue(engine) {
      // More are written in groups, one after the other.
      const { maxBatch } = engine.facts();
      for (let first = 0; first < prompts.length && !signal.aborted; first += maxBatch) {
        await writeGroup(engine, [...prompts.keys()].slice(first, first + maxBatch));
      }
    },
    results(losses) {
      return texts.map((text, i) => result(text, completions[i] ?? ended(text, prompts[i] as Uint32Array, 'cancelled'), started, losses));
    },
  };
}

/** The result of texts that were cancelled before an engine saw them. */
export function nothingWritten(count: number): GenerationResult[] {
  const text: Text = { ids: [], text: '' };
  return Array.from({ length: count }, () => result(text, ended(text, new Uint32Array(), 'cancelled'), 0, 0));
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

/** Of a text whose end no engine told. */
function ended({ ids, text }: Text, prompt: Uint32Array, finish: 'cancelled' | 'length'): EngineCompletion {
  return {
    ids: Uint32Array.from(ids),
    text,
    finish,
    promptTokens: prompt.length,
    reusedTokens: 0,
    completionTokens: ids.length,
    timeToFirstTokenMs: 0,
    decodeMs: 0,
  };
}
