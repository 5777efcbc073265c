import type { Model } from 'haikuq';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { createFakeModel } from '../../shared/dev/fake-model.ts';
import { runBench, type BenchStep } from './measure.ts';
import type { BenchOptions } from './options.ts';

const options: BenchOptions = {
  promptLengths: [8, 24],
  outputLengths: [2, 6],
  repeat: 2,
  warmUp: 1,
  seed: 1,
  kvCache: 'f16',
  numerics: 'exact',
  pins: { project: 'matvec' },
  profile: false,
  loads: 0,
};
const manifest = '{"format":"haikuq"}';
// printf '{"format":"haikuq"}' | sha256sum
const manifestSha256 = '94ee3c84e33dd4baa4105cf2cf6504a38f1cf74ad82f1627e2939a2ffc45fdb9';

beforeEach(() => {
  vi.stubGlobal('fetch', async (url: URL) =>
    url.href === 'https://example.org/p/haikuq.json?signature=1' ? new Response(manifest) : new Response('', { status: 404 }),
  );
});
afterEach(() => vi.unstubAllGlobals());

function bench(model: Model, change: Partial<Parameters<typeof runBench>[0]> = {}) {
  const steps: BenchStep[] = [];
  const report = runBench({
    runtime: { load: async () => model, removeStored: async () => undefined },
    location: 'https://example.org/p/?signature=1',
    options,
    signal: new AbortController().signal,
    onStep: (step) => steps.push(step),
    onResults: () => undefined,
    ...change,
  });
  return { report, steps };
}

const talkative = () => createFakeModel({ reply: () => 'word '.repeat(50) });

it('measures every pair of lengths, with prompts that no cache knows', async () => {
  const { report, steps } = bench(talkative());
  const { schema, results, skipped, package: from } = await report;
  expect(schema).toBe('haikuq-bench-web/1');
  expect(results.map((result) => [result.promptTokens, result.outputTokens])).toEqual([
    [8, 2],
    [8, 6],
    [24, 2],
    [24, 6],
  ]);
  expect(skipped).toEqual([]);
  for (const { runs, promptTokens, outputTokens, prefillTokensPerSecond } of results) {
    expect(runs).toHaveLength(2);
    expect(prefillTokensPerSecond.min).toBeLessThanOrEqual(prefillTokensPerSecond.median);
    for (const run of runs) {
      expect(run).toMatchObject({ promptTokens, outputTokens, reusedTokens: 0 });
      expect(run.prefillTokensPerSecond).toBeCloseTo((promptTokens * 1000) / run.timeToFirstTokenMs);
    }
  }
  expect(from.manifestSha256).toBe(manifestSha256);
  expect(from.location).toBe('https://example.org/p/');
  expect(steps.at(0)?.done).toBeNull();
  expect(steps.at(-1)?.done).toBe(9 / 10);
});

it('leaves out what does not fit, and says so', async () => {
  const { report } = bench(createFakeModel({ reply: () => 'word '.repeat(50), contextSize: 16 }));
  const { results, skipped } = await report;
  expect(results.map((result) => result.promptTokens)).toEqual([8, 8]);
  expect(skipped).toEqual([
    { promptTokens: 24, outputTokens: 2, reason: 'more than the context of 16 tokens' },
    { promptTokens: 24, outputTokens: 6, reason: 'more than the context of 16 tokens' },
  ]);
});

it('claims no decode speed for single tokens', async () => {
  const { report } = bench(talkative(), { options: { ...options, outputLengths: [1] } });
  expect((await report).results[0]?.decodeTokensPerSecond).toBeNull();
});

it('keeps the largest use of memory', async () => {
  const model = talkative();
  const use = [1, 5, 3, 2, 1].map((cache) => ({ weights: 10, cache, scratch: 0, wasm: 0 }));
  model.memory = async () => use.shift()!;
  const { memory } = await bench(model).report;
  expect([memory.loaded.cache, memory.largest.cache]).toEqual([1, 5]);
});

it('has no hash where the manifest cannot be read', async () => {
  const { report } = bench(talkative(), { location: 'https://example.org/other/' });
  expect((await report).package.manifestSha256).toBeNull();
});

it('loads from the network and from the store, as often as it is told', async () => {
  const done: string[] = [];
  const runtime = {
    load: async () => (done.push('load'), talkative()),
    removeStored: async (url: string | URL) => void done.push(`remove ${String(url)}`),
  };
  const { report } = bench(talkative(), { runtime, options: { ...options, loads: 2 } });
  const { loads, load } = await report;
  expect(loads.map(({ from }) => from)).toEqual(['network', 'store', 'network', 'store']);
  const remove = 'remove https://example.org/p/?signature=1';
  expect(done).toEqual([remove, 'load', 'load', remove, 'load', 'load', 'load']);
  expect(load.bytesPerSecond).toBeCloseTo((load.totalBytes * 1000) / load.ms);
});

it('loads as it is told', async () => {
  const load = vi.fn(async () => talkative());
  await bench(talkative(), { runtime: { load, removeStored: async () => undefined } }).report;
  const asked = { kvCache: 'f16', numerics: 'exact', device: { pins: { project: 'matvec' } } };
  expect(load).toHaveBeenCalledExactlyOnceWith('https://example.org/p/?signature=1', expect.objectContaining(asked));
});

it('takes a step of the longest prompt apart where that is asked for', async () => {
  expect((await bench(talkative()).report).profile).toBeNull();
  const { profile } = await bench(talkative(), { options: { ...options, profile: true } }).report;
  expect(profile?.steps.map(({ phase, tokens, depth }) => [phase, tokens, depth])).toEqual([
    ['prefill', 24, 0],
    ['decode', 1, 24],
  ]);
});

it('frees the model when it is stopped midway', async () => {
  const model = talkative();
  const dispose = vi.spyOn(model, 'dispose');
  const controller = new AbortController();
  const { report } = bench(model, { signal: controller.signal, onResults: () => controller.abort() });
  await expect(report).rejects.toThrow('aborted');
  expect(dispose).toHaveBeenCalledOnce();
});
