/** The public types of `model.openai`: what OpenAI's own types are assignable to, and what is assignable to them. */

import type { ResponseFormat } from '../types.js';

/** A part of a message; only parts of type `text` (and `refusal`, of assistants) can be read. */
export interface OpenAIPart {
  type: string;
  text?: string;
  refusal?: string;
}

/** A message as OpenAI's `ChatCompletionMessageParam` has it. */
export interface OpenAIMessage {
  role: 'developer' | 'system' | 'user' | 'assistant' | 'tool' | 'function' | (string & {});
  /** Parts are put together without anything between them. Null is no text. */
  content?: string | readonly OpenAIPart[] | null;
  name?: string;
  /** Of an assistant: functions that it called. They reach the chat template. */
  tool_calls?: readonly object[] | null;
  /** Of a tool: which call it answers. */
  tool_call_id?: string;
  refusal?: string | null;
  reasoning_content?: string | null;
}

/** OpenAI's `ChatCompletionCreateParams`. Null is as good as absent everywhere. */
export interface OpenAIRequest {
  messages: readonly OpenAIMessage[];
  /** Repeated in the answer; any will do. */
  model?: string;
  stream?: boolean | null;
  stream_options?: { include_usage?: boolean } | null;
  max_tokens?: number | null;
  max_completion_tokens?: number | null;
  temperature?: number | null;
  /** 0 is greedy. */
  top_p?: number | null;
  stop?: string | readonly string[] | null;
  seed?: number | null;
  /** Not OpenAI's, but of many servers of its shape. */
  top_k?: number | null;
  min_p?: number | null;
  repetition_penalty?: number | null;
  /** OpenAI's three, `regex` and `grammar`. */
  response_format?: ResponseFormat | null;
  /** From here on: only values that ask for nothing, as each is described. */
  n?: number | null;
  /** Empty. */
  tools?: readonly object[] | null;
  functions?: readonly object[] | null;
  /** `none` or `auto`. */
  tool_choice?: string | object | null;
  function_call?: string | object | null;
  /** Empty, or nothing but zeros. */
  logit_bias?: { [token: string]: number } | null;
  logprobs?: boolean | null;
  top_logprobs?: number | null;
  frequency_penalty?: number | null;
  presence_penalty?: number | null;
  modalities?: readonly string[] | null;
  reasoning_effort?: string | null;
  verbosity?: string | null;
  audio?: object | null;
  moderation?: object | null;
  web_search_options?: object | null;
  /** From here on: says nothing about the answer. */
  metadata?: object | null;
  parallel_tool_calls?: boolean | null;
  prediction?: object | null;
  prompt_cache_key?: string | null;
  prompt_cache_options?: object | null;
  prompt_cache_retention?: string | null;
  safety_identifier?: string | null;
  service_tier?: string | null;
  store?: boolean | null;
  user?: string | null;
}

/** Of OpenAI's request options, the one that means something without a network. */
export interface OpenAIRequestOptions {
  signal?: AbortSignal | null | undefined;
}

export interface OpenAIUsage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: { cached_tokens: number };
}

export interface OpenAICompletion {
  id: string;
  object: 'chat.completion';
  created: number;
  model: string;
  choices: {
    index: number;
    message: { role: 'assistant'; content: string; refusal: null; annotations: never[] };
    finish_reason: 'stop' | 'length';
    logprobs: null;
  }[];
  usage: OpenAIUsage;
}

export interface OpenAIChunk {
  id: string;
  object: 'chat.completion.chunk';
  created: number;
  model: string;
  choices: {
    index: number;
    delta: { role?: 'assistant'; content?: string; refusal?: null };
    finish_reason: 'stop' | 'length' | null;
    logprobs: null;
  }[];
  usage?: OpenAIUsage | null;
}

export interface OpenAIStream extends AsyncIterable<OpenAIChunk> {
  /** As in OpenAI's client: `stream.controller.abort()` ends it. */
  readonly controller: AbortController;
  /** Two streams of the same chunks, which may be read at different speeds. */
  tee(): [OpenAIStream, OpenAIStream];
  /** The chunks as lines of JSON, as OpenAI's client writes and reads them. */
  toReadableStream(): ReadableStream<Uint8Array<ArrayBuffer>>;
}

/** A promise that can also give the HTTP response that OpenAI's server would send. */
export interface OpenAIPromise<T> extends Promise<T> {
  withResponse(): Promise<{ data: T; response: Response; request_id: string | null }>;
  asResponse(): Promise<Response>;
}

export interface OpenAICompletions {
  create(request: OpenAIRequest & { stream: true }, options?: OpenAIRequestOptions): OpenAIPromise<OpenAIStream>;
  create(request: OpenAIRequest & { stream?: false | null }, options?: OpenAIRequestOptions): OpenAIPromise<OpenAICompletion>;
  create(request: OpenAIRequest, options?: OpenAIRequestOptions): OpenAIPromise<OpenAIStream | OpenAICompletion>;
}

export interface OpenAIModel {
  id: string;
  object: 'model';
  /** When the page loaded it, in seconds since 1970. */
  created: number;
  owned_by: string;
}

export interface OpenAIModelList {
  object: 'list';
  data: OpenAIModel[];
}

export interface OpenAIModels {
  /** The one model; can be awaited or iterated. */
  list(): Promise<OpenAIModelList & AsyncIterable<OpenAIModel>> & AsyncIterable<OpenAIModel>;
  retrieve(model: string): Promise<OpenAIModel>;
}

export interface OpenAIShape {
  chat: { completions: OpenAICompletions };
  models: OpenAIModels;
  /**
   * Answers `/chat/completions` and `/models` of any host as OpenAI's API does, from this model: for OpenAI's own client and
   * others that take a `fetch`.
   */
  fetch: typeof globalThis.fetch;
}
