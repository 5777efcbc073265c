/** The benchmark's result: what the page shows, copies and downloads. docs/benchmarks.md says how to read and send it. */

import type { AdapterInfo, MemoryUse, ModelInfo } from 'haikuq';
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
  load: { ms: number; downloadedBytes: number; totalBytes: number };
  /** Bytes. `loaded`: before the first prompt; `largest`: of what was seen after each case. */
  memory: { loaded: MemoryUse; largest: MemoryUse };
  options: BenchOptions;
  results: CaseResult[];
  skipped: SkippedCase[];
}
