/**
 * What a model asks of the host that owns its engine, and what the host tells it meanwhile. The host is on the other
 * side of a worker or on the same thread; everything here can be cloned.
 */

import type { EngineChat, EngineRequest } from '../engine/engine.js';
import type { ResolvedLocation } from '../store/location.js';
import type {
  ChatOptions,
  DeviceLostEvent,
  GenerationResult,
  LoadOptions,
  LoadProgress,
  MemoryUse,
  ModelInfo,
  ModelProfile,
  Trimmed,
} from '../types.js';

/** Chosen by the caller; names a running call when it is cancelled, and in events. */
export type CallId = number;

export interface LoadRequest extends Pick<LoadOptions, 'cache' | 'contextSize' | 'kvCache' | 'numerics' | 'kernels' | 'device'> {
  location: ResolvedLocation;
  /** Sent with every request of a file. */
  headers?: [string, string][];
  credentials?: RequestCredentials;
  /** Whether the page is asked (by a `fetch` event) for the headers of each request, or for its answer. */
  asks?: 'headers' | 'fetch';
  /** Whether URLs name the file's hash; by the scheme where absent. */
  sha256Query?: boolean;
}

/** How to write, after validation. */
export interface WriteOptions extends Omit<EngineRequest, 'prompt' | 'written' | 'seed' | 'constraint'> {
  seed: number;
  /** What is added to the seed from one text of a batch to the next. */
  seedStep: number;
  /** A `ResponseFormat` as JSON. */
  responseFormat?: string;
}

export type WriteRequest =
  | {
      kind: 'chat';
      chat: EngineChat;
      overflow: NonNullable<ChatOptions['overflow']>;
      reserve: number | undefined;
      options: WriteOptions;
    }
  | { kind: 'generate'; prompts: string[]; controlTokens: boolean; options: WriteOptions };

/** One text for each prompt. */
export interface Written {
  results: GenerationResult[];
  trimmed?: Trimmed;
}

export type HostEvent =
  | { type: 'progress'; progress: LoadProgress }
  /** A request that is to be made as the caller's functions want it; the answer comes over the port. */
  | { type: 'fetch'; url: string; init: Omit<RequestInit, 'signal'>; port: MessagePort }
  | ({ type: 'device-lost' } & DeviceLostEvent)
  | { type: 'text'; call: CallId; index: number; text: string }
  | { type: 'rows'; call: CallId; first: number; logits: Float32Array<ArrayBuffer> };

/** Every method rejects with a `HaikuqError`. Events of a call are sent before the call is answered. */
export interface Host {
  load(call: CallId, request: LoadRequest): Promise<ModelInfo>;
  write(call: CallId, request: WriteRequest): Promise<Written>;
  /** Ends a load with `aborted`, and a text with `finish: 'cancelled'`; nothing where the call is over. */
  cancel(call: CallId): Promise<void>;
  countTokens(text: string | EngineChat): Promise<number>;
  tokenize(text: string, controlTokens: boolean): Promise<Uint32Array>;
  detokenize(ids: Uint32Array): Promise<string>;
  score(call: CallId, ids: Uint32Array): Promise<void>;
  continueGreedily(prompt: Uint32Array, maxTokens: number): Promise<Uint32Array>;
  memory(): Promise<MemoryUse>;
  profile(promptTokens: number): Promise<ModelProfile>;
  loseDevice(): Promise<void>;
  /** Ends what runs and frees the GPU's memory. */
  dispose(): Promise<void>;
}

/** Sends an event to the model; objects in `transfer` are moved instead of copied. */
export type Emit = (event: HostEvent, transfer?: Transferable[]) => void;
