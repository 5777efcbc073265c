/** The public types: what goes into a model and what comes out of it. */

import type { OpenAIShape } from './openai/types.js';

export type * from './openai/types.js';

/** Where a package comes from: a URL prefix, a folder that the user picked or dropped, or its files or their handles. */
export type PackageLocation = string | URL | FileSystemDirectoryHandle | Iterable<File | FileSystemFileHandle>;

export interface LoadOptions {
  /** Called as bytes arrive, at most every 100 ms, and once at the end of each phase. */
  onProgress?: (progress: LoadProgress) => void;
  /** Aborts the load; what was stored until then is kept for the next one. */
  signal?: AbortSignal;
  /**
   * Where shards are kept between visits. `auto` (default): OPFS, or else the Cache API, or else nothing.
   * `none` streams from the network straight to the GPU every time.
   */
  cache?: 'auto' | 'opfs' | 'cache-api' | 'none';
  /**
   * Sent with every request of the package's files, such as `{ Authorization: 'Bearer …' }`. A function is asked before each
   * request, so that a token may expire. On another origin the server has to allow them (a CORS preflight).
   */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
  /** Whether cookies are sent with requests of the package's files; `same-origin` by default, as `fetch` has it. */
  credentials?: RequestCredentials;
  /**
   * Fetches the package's files in place of the browser's `fetch`, on the calling thread. Called with a URL and an init that
   * may have a `Range` header (to which the whole file is a good answer too), `cache` and a `signal`.
   */
  fetch?: (url: string, init: RequestInit) => Promise<Response>;
  /**
   * Whether a file is asked for as `FILE?sha256=HEX`, so that caches may keep it for good. `false` for hosts that refuse
   * queries they do not know. Default: `true` for http and https, else `false`.
   */
  sha256Query?: boolean;
  /** Tokens that a sequence may have; the model's own limit where absent or larger. */
  contextSize?: number;
  /** Precision of the key/value cache; `auto` is f16. */
  kvCache?: 'auto' | 'f16' | 'f32';
  /**
   * `exact`: activations in f32, and a text never depends on what else is computed beside it. `fast` rounds activations to 8
   * bits where that loses next to nothing, which GPUs compute several times faster. `auto`, the default, is `fast`.
   */
  numerics?: 'auto' | 'exact' | 'fast';
  /**
   * `auto` (default): among GPU kernels that do the same, by times measured on this GPU at the first load (0.3 s at most)
   * and kept beside the packages; where nothing is stored, as with `table`: by what the runtime knows of such GPUs.
   */
  kernels?: 'auto' | 'table';
  /** `true` (default): in a Web Worker. `false`: on the calling thread. A function: makes the worker. */
  worker?: boolean | (() => Worker);
  /** What to ask of the GPU; for tests and for work-arounds. */
  device?: DeviceOptions;
  /** Called when a lost device is about to be replaced, and again when that worked. */
  onDeviceLost?: (event: DeviceLostEvent) => void;
}

export interface DeviceOptions {
  powerPreference?: 'low-power' | 'high-performance';
  /** Behave as if the device had no `shader-f16`. */
  withoutF16?: boolean;
  /** Behave as if the device had no subgroups. */
  withoutSubgroups?: boolean;
  /** Ask for WebGPU's default limits alone. */
  defaultLimits?: boolean;
  /** Take this kernel for an operation wherever it fits, such as `{ project: 'matvec' }`. */
  pins?: Record<string, string>;
}

export interface DeviceLostEvent {
  /** The browser's words. */
  message: string;
  recovered: boolean;
}

export interface LoadProgress {
  /**
   * `manifest`: what there is to load. `download`: shards from the network (or from the dropped files).
   * `upload`: checking shards and handing them to the GPU; overlaps with `download`. `compile`: what the GPU has yet to compile
   * and to measure when all bytes are there. `ready`: done.
   */
  phase: 'manifest' | 'download' | 'upload' | 'compile' | 'ready';
  /** Bytes checked and on the GPU. */
  bytes: number;
  /** Bytes of all weights. */
  totalBytes: number;
  /** Bytes that came over the network in this load. */
  downloadedBytes: number;
  /** Bytes that must come over the network in this load; the rest is stored already. */
  downloadTotalBytes: number;
  /** Of the download, averaged over the last seconds. */
  bytesPerSecond: number;
  /** From `compile` on: kernels that the GPU's driver has compiled, and how many there are. */
  kernels?: { compiled: number; total: number };
  /** With `ready` only: what each stage of the load did. */
  stages?: LoadStages;
}

/**
 * `fetch`: from the network. `store`: into the browser's storage. `read`: from there, or from the user's files. `hash`: by
 * the browser; files that the runtime hashes itself are not counted. `upload`: handing those over to the GPU.
 */
export type LoadStage = 'fetch' | 'store' | 'read' | 'hash' | 'upload';

/** Bytes that went through each stage, and milliseconds that it was at work. Stages overlap. */
export type LoadStages = Record<LoadStage, { bytes: number; ms: number }>;

export interface Message {
  role: 'system' | 'user' | 'assistant' | 'tool' | (string & {});
  content: string;
  /** What else the package's chat template knows; fields of other names reach it too. */
  name?: string;
  reasoning_content?: string;
  tool_calls?: readonly object[];
  tool_call_id?: string;
}

/** What a chat template is given beside the messages. */
export interface ChatTemplateOptions {
  /** Functions that the model may call, as JSON schemas in OpenAI's shape: `{ type: 'function', function: { name, … } }`. */
  tools?: readonly object[];
  /** Documents to answer from, by custom with `title` and `text`. */
  documents?: readonly object[];
  /** Further variables of the template, such as `{ enable_thinking: false }`: what JSON can say. */
  chatTemplateKwargs?: Record<string, unknown>;
  /**
   * Whether the answer goes on with the text of the last message, which stays open; the result has only what is new. Default:
   * where the last message is the assistant's.
   */
  continueFinalMessage?: boolean;
}

/** How tokens are chosen. Absent options come from the package's `generation_config.json`, or else are greedy. */
export interface SamplingOptions {
  /** Divides the logits; 0 is greedy. */
  temperature?: number;
  /** Only the k most probable tokens; 0 is all. */
  topK?: number;
  /** Only the most probable tokens that make up this share of the probability; 1 is all. */
  topP?: number;
  /** Only tokens of at least this share of the most probable one's probability; 0 is all. */
  minP?: number;
  /** Over 1 discourages tokens that have occurred. */
  repetitionPenalty?: number;
  /** The same seed gives the same text. Random where absent. */
  seed?: number;
}

/** What an answer is to be; see `response_format` of OpenAI's API, which has the first three. */
export type ResponseFormat =
  /** Nothing is asked for. */
  | { type: 'text' }
  /** A JSON object. */
  | { type: 'json_object' }
  /** JSON that validates against a schema. A keyword that could not be kept is refused by name, whatever `strict` says. */
  | { type: 'json_schema'; json_schema: JsonSchemaFormat }
  /** Text that a regular expression (in the syntax of Rust's `regex`) matches as a whole. */
  | { type: 'regex'; regex: string }
  /** Text of a grammar, in llguidance's variant of Lark. */
  | { type: 'grammar'; grammar: string };

export interface JsonSchemaFormat {
  schema?: object | boolean;
  name?: string;
  description?: string;
  strict?: boolean | null;
}

export interface GenerateOptions extends SamplingOptions {
  /** What the answer is to be. The first request that has one loads a second WebAssembly module. */
  responseFormat?: ResponseFormat;
  /** Tokens at most; as many as the context holds where absent. */
  maxTokens?: number;
  /** The text ends before any of these. */
  stop?: string | string[];
  /** Go on after the model's end-of-text token. */
  ignoreEos?: boolean;
  /** Aborts: the stream throws `aborted`, the result says `cancelled` and holds what was written. */
  signal?: AbortSignal;
  /** `generate` only: take control tokens that the prompt spells for control tokens. Default false. */
  controlTokens?: boolean;
}

export interface ChatOptions extends GenerateOptions, ChatTemplateOptions {
  /**
   * What to do when the conversation does not fit. `trim` (default): keep system messages and the newest turns, drop
   * the oldest turns (four at a time from long conversations) until the prompt and `reserve` tokens fit, and say so in
   * `result.trimmed`.
   * `refuse`: throw `context-overflow`.
   */
  overflow?: 'trim' | 'refuse';
  /**
   * Tokens kept free for the answer. When trimming, the default is `maxTokens` (half the context at most) where that is
   * given, else a quarter of the context; when refusing, none. Where the newest turn leaves less, it gets what there is.
   */
  reserve?: number;
}

/** Why a text ended. */
export type FinishReason = 'stop' | 'length' | 'context' | 'cancelled';

export interface Usage {
  promptTokens: number;
  /** Tokens of the prompt whose keys and values were cached already. */
  reusedTokens: number;
  /** Tokens chosen, the stop token included. */
  completionTokens: number;
}

export interface Timings {
  /** From the call to the first token. */
  timeToFirstTokenMs: number;
  /** From the first token to the last. */
  decodeMs: number;
  /** After the first token; 0 for fewer than two. */
  tokensPerSecond: number;
}

/** What trimming left out. */
export interface Trimmed {
  /** Messages dropped, oldest first, as indices into the conversation that was given. */
  droppedMessages: number[];
  /** Tokens of the prompt before and after. */
  promptTokensBefore: number;
  promptTokensAfter: number;
}

export interface GenerationResult {
  text: string;
  /** Token ids without the stop token; empty where the cloud answered. */
  ids: Uint32Array;
  finish: FinishReason;
  usage: Usage;
  timings: Timings;
  /** Where the conversation was trimmed to fit. */
  trimmed?: Trimmed;
  /** Times that the device was lost and replaced while this text was written. */
  recoveries: number;
  /** Who wrote it; always `local` without `hybrid`. */
  answeredBy: 'local' | 'cloud';
}

/** A text as it is written. Iterate once; `result` settles when it ends, iterated or not. */
export interface TextStream extends AsyncIterable<string> {
  /** Rejects with a `HaikuqError`, except that an abort resolves with `finish: 'cancelled'`. */
  readonly result: Promise<GenerationResult>;
  /** The whole text once it is written. */
  text(): Promise<string>;
  /** Ends it; the iteration ends without an error. */
  abort(): void;
}

/** Several texts as they are written together. */
export interface BatchStream extends AsyncIterable<{ index: number; text: string }> {
  readonly result: Promise<GenerationResult[]>;
  abort(): void;
}

export interface MemoryUse {
  /** Bytes of GPU memory: weights, keys and values, activations. */
  weights: number;
  cache: number;
  scratch: number;
  /** Bytes of the WebAssembly heap. */
  wasm: number;
}

/** Operations of a step that do the same with the same sizes, together. */
export interface OperationProfile {
  /** What they are for. */
  operation: string;
  /** The kernel that was chosen. */
  kernel: string;
  /** Their sizes, in words. */
  shape: string;
  /** How many there are. */
  count: number;
  dispatches: number;
  /**
   * GPU time of all, one after the other in a pass of their own. Small ones look longer than they are in a step, where other
   * work goes on meanwhile. `null` without timestamps.
   */
  gpuMs: number | null;
  /** Of weights that they read. */
  bytes: number;
  /** Multiplications and additions of their products. */
  flops: number;
}

/** Where the time of a step goes. */
export interface StepProfile {
  phase: 'prefill' | 'decode';
  /** Tokens of the step. */
  tokens: number;
  /** Tokens in the cache before it. */
  depth: number;
  /** GPU time of the whole step, as one pass; `null` without timestamps. */
  gpuMs: number | null;
  /** On the processor: to encode the step, to finish and submit it, and from there until the GPU is known to be done. */
  encodeMs: number;
  submitMs: number;
  waitMs: number;
  dispatches: number;
  /** Those that take longest first. */
  operations: OperationProfile[];
}

export interface ModelProfile {
  /** A step of prefill in an empty sequence, and a step of decode after it. */
  steps: StepProfile[];
  /**
   * All timestamps of the GPU are multiples of this: browsers round them. `null` where there are none, because the browser does
   * not offer `timestamp-query` for this GPU.
   */
  timestampMs: number | null;
  /** How fast the GPU reads memory that no cache holds: what decoding is limited by. */
  readBytesPerSecond: number;
}

export interface ProfileOptions {
  /** Tokens of the step of prefill: 256 by default, which is one chunk of a prompt, and that or the context at most. */
  promptTokens?: number;
}

export interface AdapterInfo {
  vendor: string;
  architecture: string;
  device: string;
  description: string;
  f16: boolean;
  /** Smallest and largest subgroup size, where subgroups are used. */
  subgroups: [number, number] | null;
  /** WebGPU limits, by their names. */
  limits: Record<string, number>;
  /** A software fallback. */
  software: boolean;
}

export interface ModelInfo {
  /** Last part of the location. */
  name: string;
  recipe: string;
  bitsPerWeight: number;
  parameters: number;
  weightBytes: number;
  vocabSize: number;
  contextSize: number;
  hasChatTemplate: boolean;
  /** How it computes: what `numerics` came to on this device with this package. */
  numerics: 'exact' | 'fast';
  adapter: AdapterInfo;
  /** What this runtime is. */
  version: string;
}

export interface Model {
  readonly info: ModelInfo;
  /** Answers a conversation, by the package's chat template. Cached up to the first token that differs. */
  chat(messages: readonly Message[], options?: ChatOptions): TextStream;
  /** Continues a text, or several together. */
  generate(prompt: string, options?: GenerateOptions): TextStream;
  generate(prompts: readonly string[], options?: GenerateOptions): BatchStream;
  /** Tokens of a text, or of a conversation with its template. */
  countTokens(text: string | readonly Message[], options?: ChatTemplateOptions): Promise<number>;
  tokenize(text: string, options?: { controlTokens?: boolean }): Promise<Uint32Array>;
  detokenize(ids: Uint32Array): Promise<string>;
  /** Forced decoding: logits after every token of `ids`, handed over in blocks of rows `[rows × vocabSize]`. */
  score(ids: Uint32Array, onRows: (first: number, logits: Float32Array) => void): Promise<void>;
  /** Continues token ids, each the likeliest; an end token ends the result and is part of it. */
  continueGreedily(prompt: Uint32Array, maxTokens: number): Promise<Uint32Array>;
  memory(): Promise<MemoryUse>;
  /** Measures where the time of a step goes, on the GPU and on the processor; takes some seconds. */
  profile(options?: ProfileOptions): Promise<ModelProfile>;
  /** The OpenAI client's shape, so that existing code ports by one line. */
  readonly openai: OpenAIShape;
  /** Loses the GPU device on purpose, as a driver reset would: try your page's behaviour. */
  loseDevice(): Promise<void>;
  /** Frees the GPU's memory and ends the worker. */
  dispose(): Promise<void>;
}

/** What `hybrid` needs of either side; `Model` is one. */
export interface ChatBackend {
  chat(messages: readonly Message[], options?: ChatOptions): TextStream;
}
