/**
 * The boundary to WebAssembly: what `web/wasm` (crate `haikuq-web`) exports, as TypeScript sees it. The generated module
 * (`src/engine/generated/haikuq_web.js`) has a class `Engine` of this shape and a default export that initializes it.
 */

import type { ChatTemplateOptions, Message, ModelProfile } from '../types.js';
import type { EngineCompletion, EngineFacts, EngineOptions, EngineRequest } from './boundary.js';

export type { EngineCompletion, EngineFacts, EngineOptions, EngineRequest } from './boundary.js';

/** A package's files, read by the engine. */
export interface Source {
  /** Bytes `[start, end)` of a file; fewer where it ends before `end`. Rejects with a `HaikuqError`. */
  read(file: string, start: number, end: number): Promise<Uint8Array>;
  /**
   * The whole of a shard with its SHA-256, where JavaScript reads and hashes it faster than the engine does; undefined
   * where it is to be read in pieces. One at a time: the next is asked for when the one before was released.
   */
  hold(file: string): Promise<HeldFile | undefined>;
  /**
   * The engine found that the bytes of `file` are not what the manifest says. Drops the copy and gets another one:
   * true where there is one to read, false where this copy came straight from the origin already.
   */
  refresh(file: string): Promise<boolean>;
}

/** A whole file in JavaScript's memory. */
export interface HeldFile {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Of these bytes. */
  readonly sha256: Uint8Array;
  /** Writes bytes `[start, end)` to byte `to` of `buffer`, straight from this memory. */
  upload(queue: GPUQueue, buffer: GPUBuffer, to: number, start: number, end: number): void;
  /** The bytes are not needed any more; their memory may be used for other ones. */
  release(): void;
}

/** A conversation and what else its template is given. */
export interface EngineChat extends Omit<ChatTemplateOptions, 'continueFinalMessage'> {
  messages: Message[];
  /** Leaves the last message open in place of opening the assistant's next one. */
  continueFinalMessage: boolean;
}

/**
 * A package on a GPU. Errors are `Error`s with `code` (an `ErrorCode`) and `details` (`ErrorDetails`), or what `Source`
 * threw, unchanged. One `generate`, `score` or `profile` at a time; the others may be called at any time.
 */
export interface Engine {
  facts(): EngineFacts;
  /** Where the load has measured kernels: what later loads are to be given. */
  kernelTimes(): string | undefined;
  /** Bytes of GPU memory, and of the WebAssembly heap. */
  memory(): { weights: number; cache: number; scratch: number; wasm: number };
  encode(text: string, controlTokens: boolean): Uint32Array;
  /** Ids of a text in the middle of a text, without control tokens. */
  encodeBare(text: string): Uint32Array;
  /** What each token writes: the bytes of all, and where each token's end; 0xff and its name for a control token. */
  tokenBytes(): { bytes: Uint8Array; ends: Uint32Array };
  decode(ids: Uint32Array): string;
  /**
   * Token ids of a conversation (an `EngineChat` as JSON), ready for the assistant's answer. Throws `invalid-package` without a
   * chat template.
   */
  encodeChat(chat: string): Uint32Array;
  /**
   * Writes a text for each request. `onToken(index, id, text)` sees each token and all the text that is certain; `id`
   * is undefined for text that is flushed at the end, and between chunks of a prompt (with no text). Returning false
   * ends that text as `cancelled`. Each request takes the cached conversation with the longest common prefix.
   */
  generate(
    requests: EngineRequest[],
    onToken: (index: number, id: number | undefined, text: string) => boolean,
  ): Promise<EngineCompletion[]>;
  /** Logits after each token, in blocks of whole rows; the array is only valid during the call. */
  score(ids: Uint32Array, onRows: (first: number, logits: Float32Array) => void): Promise<void>;
  /** Where the time of a step of prefill goes (of 2 tokens at least, one chunk at most), and of one of decode after it. */
  profile(promptTokens: number): Promise<ModelProfile>;
  loseDevice(): void;
  /** Frees the GPU's memory. */
  free(): void;
}

export type OnEngineProgress = (bytes: number, totalBytes: number, kernels?: number, totalKernels?: number) => void;

export interface EngineModule {
  /** Makes a new WebAssembly instance of the module, after a trap has left the old one in an unknown state. */
  __wbg_reset_state?(): void;
  /** Initializes WebAssembly; call once. */
  default(options: { module_or_path: URL | Response | Promise<Response> | WebAssembly.Module | BufferSource }): Promise<unknown>;
  Engine: {
    /** `onProgress` is told of kernels once all bytes are there. */
    load(source: Source, options: EngineOptions, onProgress: OnEngineProgress): Promise<Engine>;
  };
}
