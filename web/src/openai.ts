/** The shape of OpenAI's client, over any chat backend. */

import { aborted } from './failures.js';
import { invalid } from './options.js';
import type {
  ChatBackend,
  ChatOptions,
  FinishReason,
  GenerationResult,
  Message,
  OpenAIChunk,
  OpenAICompletion,
  OpenAICompletions,
  OpenAIRequest,
  OpenAIShape,
  OpenAIStream,
  OpenAIUsage,
  TextStream,
} from './types.js';

/** Fields of OpenAI's API that would change the answer, and the values that ask for nothing. Ignoring others is harmless. */
const UNSUPPORTED: Record<string, unknown[]> = {
  n: [1],
  tools: [],
  functions: [],
  logprobs: [false],
  logit_bias: [],
  frequency_penalty: [0],
  presence_penalty: [0],
  response_format: [],
  audio: [],
};

/** `modelName` is what answers call the model where the request does not. */
export function createOpenAI(backend: ChatBackend, modelName: string): OpenAIShape {
  async function create(request: OpenAIRequest, options: { signal?: AbortSignal } = {}): Promise<OpenAICompletion | OpenAIStream> {
    const model = request.model ?? modelName;
    const answer = { id: `chatcmpl-${crypto.randomUUID()}`, created: Math.floor(Date.now() / 1000), model };
    const chatOptions = toChatOptions(request);
    if (request.stream) return streamAnswer(backend, request, chatOptions, answer, options.signal);
    const stream = backend.chat(toMessages(request.messages), { ...chatOptions, ...(options.signal ? { signal: options.signal } : {}) });
    return toCompletion(await stream.result, answer);
  }
  return { chat: { completions: { create: create as OpenAICompletions['create'] } } };
}

interface Answer {
  id: string;
  created: number;
  model: string;
}

/** As with OpenAI's client, an abort ends the iteration without an error. */
async function streamAnswer(
  backend: ChatBackend,
  request: OpenAIRequest,
  chatOptions: ChatOptions,
  answer: Answer,
  signal: AbortSignal | undefined,
): Promise<OpenAIStream> {
  const controller = new AbortController();
  const abort = () => controller.abort();
  if (signal?.aborted) abort();
  signal?.addEventListener('abort', abort, { once: true });
  const text = backend.chat(toMessages(request.messages), { ...chatOptions, signal: controller.signal });
  const unlink = () => signal?.removeEventListener('abort', abort);
  text.result.then(unlink, unlink);
  const chunks = toChunks(text, answer, request.stream_options?.include_usage ?? false, controller.signal);
  return { controller, [Symbol.asyncIterator]: () => chunks };
}

async function* toChunks(
  text: TextStream,
  answer: Answer,
  includeUsage: boolean,
  signal: AbortSignal,
): AsyncGenerator<OpenAIChunk, void, undefined> {
  const chunk = (delta: OpenAIChunk['choices'][number]['delta'], finish_reason: 'stop' | 'length' | null = null): OpenAIChunk => ({
    ...answer,
    object: 'chat.completion.chunk',
    choices: [{ index: 0, delta, finish_reason, logprobs: null }],
    ...(includeUsage ? { usage: null } : {}),
  });
  try {
    let begun = false;
    for await (const piece of text) {
      if (!begun) yield chunk({ role: 'assistant', content: '' });
      begun = true;
      yield chunk({ content: piece });
    }
    const result = await text.result;
    if (signal.aborted && result.finish === 'cancelled') return;
    if (!begun) yield chunk({ role: 'assistant', content: '' });
    yield chunk({}, toFinishReason(result.finish));
    if (includeUsage) yield { ...answer, object: 'chat.completion.chunk', choices: [], usage: toUsage(result) };
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    text.abort();
  }
}

function toCompletion(result: GenerationResult, answer: Answer): OpenAICompletion {
  if (result.finish === 'cancelled') throw aborted('the completion');
  const message = { role: 'assistant', content: result.text } as const;
  const choice = { index: 0, message, finish_reason: toFinishReason(result.finish), logprobs: null };
  return { ...answer, object: 'chat.completion', choices: [choice], usage: toUsage(result) };
}

function toUsage({ usage }: GenerationResult): OpenAIUsage {
  return {
    prompt_tokens: usage.promptTokens,
    completion_tokens: usage.completionTokens,
    total_tokens: usage.promptTokens + usage.completionTokens,
    prompt_tokens_details: { cached_tokens: usage.reusedTokens },
  };
}

function toFinishReason(finish: FinishReason): 'stop' | 'length' {
  return finish === 'stop' ? 'stop' : 'length';
}

/** What newer OpenAI models call `developer` is the system message of everyone else. */
function toMessages(messages: readonly Message[]): Message[] {
  if (!Array.isArray(messages)) throw invalid('messages', messages, 'a list of messages');
  return messages.map((message: Message) => (message?.role === 'developer' ? { ...message, role: 'system' } : message));
}

function toChatOptions(request: OpenAIRequest): ChatOptions {
  for (const [name, neutral] of Object.entries(UNSUPPORTED)) {
    const value = (request as unknown as Record<string, unknown>)[name];
    if (value !== undefined && value !== null && !neutral.includes(value)) throw invalid(name, value, 'nothing: it is not supported');
  }
  const options: Record<string, unknown> = {
    maxTokens: request.max_completion_tokens ?? request.max_tokens,
    temperature: request.temperature,
    topP: request.top_p,
    stop: request.stop,
    seed: request.seed,
  };
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined && value !== null));
}
