/** A model that needs no GPU: for the development server and for tests. Its tokens are words. */

import { HaikuqError } from 'haikuq';
import type { AdapterInfo, BatchStream, ChatOptions, GenerateOptions, GenerationResult, Message, Model, TextStream } from 'haikuq';

export interface FakeModelOptions {
  /** What it says; by default it repeats the question in three lines. */
  reply?: (prompt: string) => string;
  hasChatTemplate?: boolean;
  contextSize?: number;
  /** Before each word. */
  delayMs?: number;
  /** Thrown after this many words of an answer. */
  failAfter?: { words: number; error: HaikuqError };
}

const adapter: AdapterInfo = {
  vendor: 'none',
  architecture: 'fake',
  device: '',
  description: 'no device: a stand-in for development',
  f16: true,
  subgroups: [32, 32],
  limits: { maxBufferSize: 268_435_456, maxStorageBufferBindingSize: 134_217_728 },
  software: true,
};

const words = (text: string): string[] => text.match(/\s*\S+|\s+$/g) ?? [];

const threeLines = (prompt: string): string =>
  `You said, in ${prompt.length} letters:\n${prompt}\n\n` +
  'An old silent pond,\na frog jumps into the pond:\nsplash! Silence again.\n'.repeat(3);

export function createFakeModel(options: FakeModelOptions = {}): Model {
  const { reply = threeLines, hasChatTemplate = true, contextSize = 2048, delayMs = 0, failAfter } = options;
  let cached: string[] = [];
  let disposed = false;

  function stream(prompt: string, question: string, { maxTokens, signal }: GenerateOptions): TextStream {
    const controller = new AbortController();
    signal?.addEventListener('abort', () => controller.abort());

    async function write(say: (piece: string) => void): Promise<GenerationResult> {
      const started = performance.now();
      const promptTokens = words(prompt);
      if (promptTokens.length >= contextSize) {
        throw new HaikuqError('context-overflow', `the prompt has ${promptTokens.length} tokens and the context ${contextSize}`, {
          needed: promptTokens.length,
          available: contextSize,
        });
      }
      const firstNew = promptTokens.findIndex((word, index) => cached[index] !== word);
      const answer = words(reply(question));
      const limit = Math.min(maxTokens ?? Infinity, contextSize - promptTokens.length);
      let text = '';
      let count = 0;
      let first = started;
      while (count < Math.min(answer.length, limit) && !controller.signal.aborted) {
        if (disposed) throw new HaikuqError('internal', 'the model is disposed');
        if (failAfter?.words === count) throw failAfter.error;
        await new Promise((resolve) => setTimeout(resolve, count === 0 ? delayMs * 4 : delayMs));
        if (count === 0) first = performance.now();
        text += answer[count]!;
        say(answer[count]!);
        count += 1;
      }
      const decodeMs = performance.now() - first;
      cached = [...promptTokens, ...words(text)];
      return {
        text,
        ids: new Uint32Array(count),
        finish: controller.signal.aborted ? 'cancelled' : count < answer.length ? 'length' : 'stop',
        usage: {
          promptTokens: promptTokens.length,
          reusedTokens: firstNew < 0 ? promptTokens.length : firstNew,
          completionTokens: count,
        },
        timings: { timeToFirstTokenMs: first - started, decodeMs, tokensPerSecond: count > 1 ? ((count - 1) * 1000) / decodeMs : 0 },
        recoveries: 0,
        answeredBy: 'local',
      };
    }

    const pieces: string[] = [];
    let ended = false;
    let wake = () => {};
    const result = write((piece) => {
      pieces.push(piece);
      wake();
    }).finally(() => {
      ended = true;
      wake();
    });
    result.catch(() => undefined);

    async function* iterate(): AsyncGenerator<string, void> {
      for (let next = 0; ; ) {
        while (next < pieces.length) yield pieces[next++]!;
        if (ended) break;
        await new Promise<void>((resolve) => (wake = resolve));
      }
      await result;
    }
    return {
      result,
      [Symbol.asyncIterator]: iterate,
      text: async () => (await result).text,
      abort: () => controller.abort(),
    };
  }

  const render = (messages: readonly Message[]): string =>
    `${messages.map(({ role, content }) => `<${role}> ${content}`).join('\n')}\n<assistant> `;

  function generate(prompt: string, options?: GenerateOptions): TextStream;
  function generate(prompts: readonly string[], options?: GenerateOptions): BatchStream;
  function generate(prompt: string | readonly string[], options: GenerateOptions = {}): TextStream | BatchStream {
    if (typeof prompt !== 'string') throw new HaikuqError('invalid-argument', 'this stand-in has no batches');
    return stream(prompt, prompt, options);
  }

  return {
    info: {
      name: 'fake-words',
      recipe: 'q4',
      bitsPerWeight: 5.04,
      parameters: 7_344_384,
      weightBytes: 4_626_432,
      vocabSize: 16,
      contextSize,
      hasChatTemplate,
      numerics: 'exact',
      adapter,
      version: '0.0.0',
    },
    chat: (messages: readonly Message[], options: ChatOptions = {}) => stream(render(messages), messages.at(-1)?.content ?? '', options),
    generate,
    countTokens: async (text) => words(typeof text === 'string' ? text : render(text)).length,
    tokenize: async (text) => Uint32Array.from(words(text), (word) => word.trim().length % 16),
    detokenize: async (ids) => Array.from(ids, (id) => ` ${'x'.repeat(id)}`).join(''),
    async score(ids, onRows) {
      for (let first = 0; first < ids.length; first += 4) {
        const rows = Math.min(4, ids.length - first);
        onRows(
          first,
          Float32Array.from({ length: rows * 16 }, (_, index) => first * 16 + index),
        );
        await Promise.resolve();
      }
    },
    continueGreedily: async (_prompt, maxTokens) => Uint32Array.from({ length: maxTokens }, (_, index) => index % 16),
    memory: async () => ({ weights: 4_626_432, cache: 4_194_304, scratch: 2_097_152, wasm: 17_825_792 }),
    async profile({ promptTokens = 512 } = {}) {
      const work = { count: 8, dispatches: 8, bytes: 1_400_000, flops: 5_600_000 };
      const step = { gpuMs: 1.5, encodeMs: 0.4, submitMs: 0.1, waitMs: 2, dispatches: 16 };
      const operations = (kernel: string) => [
        { operation: 'gate_up', kernel, shape: '1536 × 256', gpuMs: 0.75, ...work },
        { operation: 'attend', kernel: 'attention', shape: '4 heads of 64', gpuMs: 0.5, ...work, bytes: 0, flops: 0 },
      ];
      const steps = [
        { phase: 'prefill' as const, tokens: promptTokens, depth: 0, ...step, operations: operations('matmul') },
        { phase: 'decode' as const, tokens: 1, depth: promptTokens, ...step, operations: operations('matvec') },
      ];
      return { steps, timestampMs: 0.1, readBytesPerSecond: 40e9 };
    },
    get openai(): never {
      throw new HaikuqError('invalid-argument', 'this stand-in does not speak OpenAI');
    },
    loseDevice: async () => undefined,
    dispose: async () => void (disposed = true),
  };
}
