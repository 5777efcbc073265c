/** Loads a package, runs it and measures. */

import type { LoadProgress, MemoryUse, Model, ModelProfile } from 'haikuq';
import type { Runtime } from '../../shared/runtime.ts';
import type { BenchOptions } from './options.ts';
import { promptMaker } from './prompts.ts';
import { SCHEMA, type BenchReport, type CaseResult, type LoadRun, type Run, type SkippedCase } from './report.ts';
import { spreadOf } from './statistics.ts';

export interface BenchStep {
  doing: string;
  /** Of all work after the load, in parts of 1; `null` while loading. */
  done: number | null;
}

export interface BenchWork {
  runtime: Pick<Runtime, 'load' | 'removeStored'>;
  /** Of the package, absolute. */
  location: string;
  options: BenchOptions;
  signal: AbortSignal;
  onStep: (step: BenchStep) => void;
  /** Everything that is measured so far. */
  onResults: (results: readonly CaseResult[]) => void;
}

const WARM_UP_TOKENS = 8;

/** Rejects with what went wrong, or with the signal's reason. */
export async function runBench(work: BenchWork): Promise<BenchReport> {
  const { location, options, signal, onStep, onResults } = work;
  const date = new Date().toISOString();
  const loads = await measureLoads(work);
  onStep({ doing: 'Loading the package', done: null });
  const { model, load } = await measureLoad(work);
  try {
    const loaded = await model.memory();
    const { results, skipped, largest } = await measureCases(model, loaded, { options, signal, onStep, onResults });
    const profile = options.profile ? await measureProfile(model, work) : null;
    const { adapter, version, ...info } = model.info;
    return {
      schema: SCHEMA,
      date,
      version,
      userAgent: navigator.userAgent,
      machine: machineFacts(),
      adapter,
      package: { ...info, location: withoutQuery(location), manifestSha256: await manifestHash(location) },
      load,
      loads,
      memory: { loaded, largest },
      options,
      results,
      skipped,
      profile,
    };
  } finally {
    await model.dispose();
  }
}

/** From the network and then from the store, as often as was asked for. */
async function measureLoads(work: BenchWork): Promise<LoadRun[]> {
  const { runtime, location, options, onStep } = work;
  const runs: LoadRun[] = [];
  for (let index = 1; index <= options.loads; index += 1) {
    for (const from of ['network', 'store'] as const) {
      onStep({ doing: `Loading from the ${from}, ${index} of ${options.loads}`, done: null });
      if (from === 'network') await runtime.removeStored(location);
      const { model, load } = await measureLoad(work);
      await model.dispose();
      runs.push({ from, ...load });
    }
  }
  return runs;
}

async function measureLoad({ runtime, location, options, signal }: BenchWork): Promise<{ model: Model; load: Omit<LoadRun, 'from'> }> {
  let progress: LoadProgress | undefined;
  const began = performance.now();
  const model = await runtime.load(location, {
    signal,
    kvCache: options.kvCache,
    numerics: options.numerics,
    device: { pins: options.pins },
    onProgress: (now) => (progress = now),
  });
  const ms = performance.now() - began;
  const totalBytes = progress?.totalBytes ?? model.info.weightBytes;
  const bytesPerSecond = (totalBytes * 1000) / ms;
  const load = { ms, totalBytes, downloadedBytes: progress?.downloadedBytes ?? 0, bytesPerSecond, stages: progress?.stages ?? null };
  return { model, load };
}

type CaseWork = Pick<BenchWork, 'options' | 'signal' | 'onStep' | 'onResults'>;

async function measureCases(model: Model, loaded: MemoryUse, { options, signal, onStep, onResults }: CaseWork) {
  const { promptLengths, outputLengths, repeat, warmUp, seed } = options;
  const makePrompt = promptMaker(model, seed);
  const results: CaseResult[] = [];
  const skipped: SkippedCase[] = [];
  let largest = loaded;
  const total = promptLengths.length * (warmUp + outputLengths.length * repeat);
  let done = 0;

  const write = async (doing: string, promptTokens: number, outputTokens: number): Promise<Run> => {
    onStep({ doing, done: done / total });
    const run = await measureRun(model, await makePrompt(promptTokens), outputTokens, signal);
    done += 1;
    return run;
  };

  for (const promptTokens of promptLengths) {
    const fitting = outputLengths.filter((outputTokens) => promptTokens + outputTokens <= model.info.contextSize);
    for (const outputTokens of outputLengths.filter((length) => !fitting.includes(length))) {
      skipped.push({ promptTokens, outputTokens, reason: `more than the context of ${model.info.contextSize} tokens` });
      done += repeat;
    }
    // Pipelines are compiled for a shape when it is first met, and the device has to leave its idle state.
    for (let index = 0; index < warmUp && fitting.length > 0; index += 1) {
      await write(`Warming up with a prompt of ${promptTokens}`, promptTokens, Math.min(WARM_UP_TOKENS, fitting[0]!));
    }
    if (fitting.length === 0) done += warmUp;

    for (const outputTokens of fitting) {
      const runs: Run[] = [];
      for (let index = 1; index <= repeat; index += 1) {
        runs.push(await write(`Prompt of ${promptTokens}, output of ${outputTokens}, ${index} of ${repeat}`, promptTokens, outputTokens));
      }
      results.push(caseResult(promptTokens, outputTokens, runs));
      onResults([...results]);
      const memory = await model.memory();
      if (bytesOf(memory) > bytesOf(largest)) largest = memory;
    }
  }
  return { results, skipped, largest };
}

async function measureProfile(model: Model, { options, signal, onStep }: BenchWork): Promise<ModelProfile> {
  signal.throwIfAborted();
  onStep({ doing: 'Taking a step apart', done: null });
  const profile = await model.profile({ promptTokens: Math.max(2, ...options.promptLengths) });
  signal.throwIfAborted();
  return profile;
}

async function measureRun(model: Model, prompt: string, outputTokens: number, signal: AbortSignal): Promise<Run> {
  signal.throwIfAborted();
  const stream = model.generate(prompt, { maxTokens: outputTokens, temperature: 0, repetitionPenalty: 1, ignoreEos: true });
  const abort = () => stream.abort();
  signal.addEventListener('abort', abort, { once: true });
  try {
    const { usage, timings } = await stream.result;
    signal.throwIfAborted();
    const { promptTokens, reusedTokens, completionTokens } = usage;
    const { timeToFirstTokenMs, decodeMs, tokensPerSecond } = timings;
    return {
      promptTokens,
      reusedTokens,
      outputTokens: completionTokens,
      timeToFirstTokenMs,
      decodeMs,
      prefillTokensPerSecond: timeToFirstTokenMs > 0 ? ((promptTokens - reusedTokens) * 1000) / timeToFirstTokenMs : 0,
      decodeTokensPerSecond: tokensPerSecond,
    };
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

function caseResult(promptTokens: number, outputTokens: number, runs: Run[]): CaseResult {
  return {
    promptTokens,
    outputTokens,
    prefillTokensPerSecond: spreadOf(runs.map((run) => run.prefillTokensPerSecond))!,
    timeToFirstTokenMs: spreadOf(runs.map((run) => run.timeToFirstTokenMs))!,
    decodeTokensPerSecond: spreadOf(runs.filter((run) => run.outputTokens > 1).map((run) => run.decodeTokensPerSecond)),
    runs,
  };
}

const bytesOf = ({ weights, cache, scratch, wasm }: MemoryUse): number => weights + cache + scratch + wasm;

function machineFacts(): BenchReport['machine'] {
  // Chromium tells these two; rounded, so that they single nobody out.
  const told = navigator as Navigator & { deviceMemory?: number; userAgentData?: { platform?: string } };
  return {
    platform: told.userAgentData?.platform ?? null,
    logicalProcessors: navigator.hardwareConcurrency,
    memoryGiB: told.deviceMemory ?? null,
  };
}

/** A query may be a signature that grants access: nothing for a result that is shown around. */
function withoutQuery(location: string): string {
  const { origin, pathname } = new URL(location);
  return origin + pathname;
}

/** SHA-256 of the manifest in hexadecimal. */
async function manifestHash(location: string): Promise<string | null> {
  try {
    const url = new URL(location);
    url.pathname += 'haikuq.json';
    const response = await fetch(url);
    if (!response.ok) return null;
    const digest = await crypto.subtle.digest('SHA-256', await response.arrayBuffer());
    return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('');
  } catch {
    // Offline: the package came from the store. The result is worth having all the same.
    return null;
  }
}
