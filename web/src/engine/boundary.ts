// Made of web/wasm/src/boundary.rs: UPDATE=1 cargo test -p haikuq-web writes it anew.

/** How to load a package. */
export interface EngineOptions {
  /** From which the device is requested; without one, or for another engine, an adapter is asked for. */
  adapter?: GPUAdapter;
  powerPreference?: 'low-power' | 'high-performance';
  contextSize?: number;
  kvCache?: 'auto' | 'f16' | 'f32';
  numerics?: 'auto' | 'exact' | 'fast';
  /** `auto`: by times measured on this GPU, in this load where `kernelTimes` does not have them. `table`: never measured. */
  kernels?: 'auto' | 'table';
  /** The result of `kernelTimes()` of an earlier engine. */
  kernelTimes?: string;
  withoutF16?: boolean;
  withoutSubgroups?: boolean;
  defaultLimits?: boolean;
  /** `OPERATION=KERNEL`, with commas between several. */
  pins?: string;
}

/** One text to write. */
export interface EngineRequest {
  prompt: Uint32Array;
  /** Tokens of the answer that were written before (by a device that is lost): the text goes on after them. */
  written?: Uint32Array;
  maxTokens?: number;
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  seed?: number;
  stop?: string[];
  ignoreEos?: boolean;
  /** What the text may be. */
  constraint?: import('./grammar.js').EngineConstraint;
}

/** A finished text. */
export interface EngineCompletion {
  /** All of the answer, `written` included. */
  ids: Uint32Array;
  text: string;
  finish: 'stop' | 'length' | 'context' | 'cancelled';
  promptTokens: number;
  reusedTokens: number;
  completionTokens: number;
  timeToFirstTokenMs: number;
  decodeMs: number;
}

/** A loaded package. */
export interface EngineFacts {
  version: string;
  recipe: string;
  bitsPerWeight: number;
  parameters: number;
  weightBytes: number;
  vocabSize: number;
  contextSize: number;
  /** Texts that it writes together. */
  maxBatch: number;
  hasChatTemplate: boolean;
  numerics: 'exact' | 'fast';
  /** Tokens that end a text. */
  eosTokenIds: number[];
  f16: boolean;
  subgroups: [number, number] | null;
}
