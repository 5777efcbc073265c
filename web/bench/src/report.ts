/** The benchmark's result: what the page shows, and gives as text and as a file. docs/benchmarks.md says how to read and send it. */

import type { AdapterInfo, LoadStages, MemoryUse, ModelInfo, ModelProfile } from 'haikuq';
import type { BenchOptions } from './options.ts';
import type { Spread } from './statistics.ts';

/** Within one number members are only ever added. */
export const SCHEMA = 'haikuq-bench-web/1';

/** One text that was written. Times are milliseconds. */
export interface Run {
  promptTokens: number;
  /** Tokens of the prompt that were cached, and hence not computed. */
  reusedTokens: number;
  outputTokens: number;
  timeToFirstTokenMs: number;
  /** From the first token to the last. */
  decodeMs: number;
  /** Tokens of the prompt that were computed, by the time to the first token. */
  prefillTokensPerSecond: number;
  /** After the first token. */
  decodeTokensPerSecond: number;
}

export interface CaseResult {
  /** As asked for; what it came to is in the runs. */
  promptTokens: number;
  outputTokens: number;
  prefillTokensPerSecond: Spread;
  timeToFirstTokenMs: Spread;
  /** `null` for outputs of a single token. */
  decodeTokensPerSecond: Spread | null;
  runs: Run[];
}

/** One load of the package. */
export interface LoadRun {
  /** `network`: nothing of it was stored. `store`: all of it was. */
  from: 'network' | 'store';
  /** From the call until a prompt can be answered. */
  ms: number;
  /** Of the weights. */
  totalBytes: number;
  downloadedBytes: number;
  /** Of the weights, by all that time. */
  bytesPerSecond: number;
  /** What each stage did, and how long it was at work; stages overlap. */
  stages: LoadStages | null;
}

export interface SkippedCase {
  promptTokens: number;
  outputTokens: number;
  reason: string;
}

export interface BenchReport {
  schema: typeof SCHEMA;
  /** When it began, ISO 8601. */
  date: string;
  /** Of haikuq. */
  version: string;
  userAgent: string;
  /** As the browser tells; `null` where it does not. */
  machine: { platform: string | null; logicalProcessors: number; memoryGiB: number | null };
  adapter: AdapterInfo;
  package: Omit<ModelInfo, 'adapter' | 'version'> & {
    /** Without its query. */
    location: string;
    /** Of the manifest, which holds the hash of every file; `null` where it could not be read. */
    manifestSha256: string | null;
  };
  /** The load before the cases, from the store as far as the package is there. */
  load: Omit<LoadRun, 'from'>;
  /** Loads that were asked for. */
  loads: LoadRun[];
  /** Bytes. `loaded`: before the first prompt; `largest`: of what was seen after each case. */
  memory: { loaded: MemoryUse; largest: MemoryUse };
  options: BenchOptions;
  results: CaseResult[];
  skipped: SkippedCase[];
  /** Where the time of a step goes; `null` where that was not asked for. */
  profile: ModelProfile | null;
}
