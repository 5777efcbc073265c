/** The model as callers see it: checks what they ask, and turns the host's answers and events into streams. */

import { HaikuqError } from './errors.js';
import { aborted, withPartialText } from './failures.js';
import { createOpenAI } from './openai/client.js';
import { checkChat, checkCount, checkIds, checkText, writeOptions } from './options.js';
import { createStream, type ResultStream } from './stream.js';
import type { BatchStream, ChatOptions, GenerateOptions, GenerationResult, Message, Model, ModelInfo, TextStream } from './types.js';
import type { CallId, Host, HostEvent, WriteRequest, Written } from './worker/protocol.js';
import { nothingWritten } from './worker/writing.js';

/** Whatever a host tells of running calls, by call. */
export interface CallEvents {
  open(onEvent: (event: CallEvent) => void): CallId;
  close(call: CallId): void;
  deliver(event: CallEvent): void;
}
type CallEvent = Extract<HostEvent, { call: CallId }>;

export function createCallEvents(): CallEvents {
  const listeners = new Map<CallId, (event: CallEvent) => void>();
  let last = 0;
  return {
    open(onEvent) {
      last += 1;
      listeners.set(last, onEvent);
      return last;
    },
    close(call) {
      listeners.delete(call);
    },
    deliver(event) {
      listeners.get(event.call)?.(event);
    },
  };
}

export interface ModelParts {
  host: Host;
  info: ModelInfo;
  events: CallEvents;
  /** Ends the worker. */
  close: () => void;
}

/** A host that is busy with one long step is not waited for any longer. */
const DISPOSE_TIMEOUT_MS = 2_000;

/** Waits until the end of a host came, or is late. Errors there are of no interest: its worker ends anyway. */
export async function notForEver(end: () => Promise<void>): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, DISPOSE_TIMEOUT_MS)));
  await Promise.race([end().catch(() => undefined), late]);
  clearTimeout(timer);
}

export function createModel({ host, info, events, close }: ModelParts): Model {
  let disposed: Promise<void> | undefined;
  const running = new Set<{ abort(): void }>();

  function checkAlive(): void {
    if (disposed) throw new HaikuqError('invalid-argument', 'the model was disposed of');
  }

  /** `request` is made, and may throw, inside the stream: all errors of a call come the same way. */
  function write<Item>(
    request: () => WriteRequest,
    signal: AbortSignal | undefined,
    texts: number,
    item: (index: number, text: string) => Item,
  ): ResultStream<Item, Written> {
    let call: CallId | undefined;
    const stream = createStream<Item, Written>({
      signal: signal instanceof AbortSignal ? signal : undefined,
      async start(push) {
        checkAlive();
        const told = request();
        call = events.open((event) => event.type === 'text' && push(item(event.index, event.text)));
        try {
          return await host.write(call, told);
        } finally {
          events.close(call);
        }
      },
      cancel: () => void (call !== undefined && host.cancel(call).catch(() => undefined)),
      nothing: () => ({ results: nothingWritten(texts) }),
    });
    running.add(stream);
    const over = () => running.delete(stream);
    stream.result.then(over, over);
    return stream;
  }

  function writeText(request: () => WriteRequest, signal: AbortSignal | undefined): TextStream {
    let written = '';
    const stream = write(request, signal, 1, (_, text) => {
      written += text;
      return text;
    });
    const only = ({ results, trimmed }: Written): GenerationResult => ({
      ...(results[0] as GenerationResult),
      ...(trimmed ? { trimmed } : {}),
    });
    const result = silent(
      stream.result.then(only, (error: unknown) => {
        throw withPartialText(error, written);
      }),
    );
    return {
      result,
      async text() {
        const { text, finish } = await result;
        if (finish === 'cancelled' && signal?.aborted) throw aborted('writing');
        return text;
      },
      abort: () => stream.abort(),
      [Symbol.asyncIterator]: () => stream[Symbol.asyncIterator](),
    };
  }

  function writeBatch(prompts: readonly string[], options: GenerateOptions): BatchStream {
    const stream = write(
      () => generateRequest(prompts, options),
      options.signal,
      prompts.length,
      (index, text) => ({ index, text }),
    );
    const result = silent(stream.result.then(({ results }) => results));
    return { result, abort: () => stream.abort(), [Symbol.asyncIterator]: () => stream[Symbol.asyncIterator]() };
  }

  function generate(prompt: string, options?: GenerateOptions): TextStream;
  function generate(prompts: readonly string[], options?: GenerateOptions): BatchStream;
  function generate(prompt: string | readonly string[], options: GenerateOptions = {}): TextStream | BatchStream {
    if (Array.isArray(prompt)) return writeBatch(prompt, options);
    return writeText(() => generateRequest([prompt as string], options), options.signal);
  }

  function chat(messages: readonly Message[], options: ChatOptions = {}): TextStream {
    return writeText(() => chatRequest(messages, options), options.signal);
  }

  async function score(ids: Uint32Array, onRows: (first: number, logits: Float32Array) => void): Promise<void> {
    checkAlive();
    const failures: unknown[] = [];
    const call = events.open((event) => {
      if (event.type !== 'rows' || failures.length > 0) return;
      try {
        onRows(event.first, event.logits);
      } catch (error) {
        failures.push(error);
      }
    });
    try {
      await host.score(call, checkIds('ids', ids));
    } finally {
      events.close(call);
    }
    if (failures.length > 0) throw failures[0];
  }

  async function dispose(): Promise<void> {
    for (const stream of running) stream.abort();
    await notForEver(() => host.dispose());
    close();
  }

  return {
    info,
    chat,
    generate,
    score,
    async countTokens(text, options = {}) {
      checkAlive();
      return host.countTokens(typeof text === 'string' ? text : checkChat(text, options));
    },
    async tokenize(text, options) {
      checkAlive();
      return host.tokenize(checkText('text', text), options?.controlTokens ?? false);
    },
    async detokenize(ids) {
      checkAlive();
      return host.detokenize(checkIds('ids', ids));
    },
    async continueGreedily(prompt, maxTokens) {
      checkAlive();
      return host.continueGreedily(checkIds('prompt', prompt), checkCount('maxTokens', maxTokens));
    },
    async memory() {
      checkAlive();
      return host.memory();
    },
    async profile({ promptTokens = 256 } = {}) {
      checkAlive();
      return host.profile(checkCount('promptTokens', promptTokens, 2));
    },
    async loseDevice() {
      checkAlive();
      await host.loseDevice();
    },
    openai: createOpenAI({ chat }, info.name),
    dispose: () => (disposed ??= dispose()),
  };
}

function generateRequest(prompts: readonly string[], options: GenerateOptions): WriteRequest {
  const checked = prompts.map((prompt, i) => checkText(prompts.length === 1 ? 'prompt' : `prompts[${i}]`, prompt));
  return { kind: 'generate', prompts: checked, controlTokens: options.controlTokens ?? false, options: writeOptions(options) };
}

function chatRequest(messages: readonly Message[], options: ChatOptions): WriteRequest {
  const { overflow = 'trim', reserve } = options;
  return { kind: 'chat', chat: checkChat(messages, options), overflow, reserve, options: writeOptions(options) };
}

/** A promise that may be ignored. */
function silent<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}
