/** Loading: what is asked of the network, what is told meanwhile, and where the bytes go. */

import { setTimeout as sleep } from 'node:timers/promises';
import { nativeAnswer } from './support/haikuq.ts';
import { filesOf, manifestOf, sharded, totalBytes, whole } from './support/packages.ts';
import { chat, download, expect, load, PROMPT, storedBlobs, test, user } from './support/test.ts';

const shards = () => manifestOf(sharded).shards;

test('an empty profile loads every file once, tells progress up to the total, and answers', async ({ faulty, faultyLab: page }) => {
  const { info, progress, error } = await load(page, sharded);
  expect(error).toBeUndefined();

  const total = totalBytes(shards());
  const files = filesOf(sharded);
  expect(info).toMatchObject({ name: sharded.name, recipe: 'q4-fast', weightBytes: total, hasChatTemplate: true });
  expect(
    faulty
      .packageFiles()
      .map(({ file }) => file)
      .sort(),
  ).toEqual(files.map(({ name }) => name).sort());

  const phases = ['manifest', 'download', 'upload', 'compile', 'ready'];
  for (const [i, now] of progress.entries()) {
    const before = progress[i - 1] ?? now;
    expect(now.bytes).toBeGreaterThanOrEqual(before.bytes);
    expect(now.downloadedBytes).toBeGreaterThanOrEqual(before.downloadedBytes);
    expect(phases.indexOf(now.phase)).toBeGreaterThanOrEqual(phases.indexOf(before.phase));
    expect(now.bytes).toBeLessThanOrEqual(now.totalBytes);
    expect(now.totalBytes).toBe(total);
  }
  const downloadTotalBytes = totalBytes(files);
  expect(progress[0]).toMatchObject({ phase: 'manifest', bytes: 0, downloadTotalBytes });
  expect(progress.at(-1)).toMatchObject({ phase: 'ready', bytes: total, downloadedBytes: downloadTotalBytes, downloadTotalBytes });

  const { result } = await chat(page, [user(PROMPT)], { temperature: 0, maxTokens: 4 });
  expect(result).toMatchObject({ finish: 'length', answeredBy: 'local', usage: { completionTokens: 4 } });
});

test('two shards are in flight at once, never more', async ({ faulty, faultyLab: page }) => {
  // Every shard takes its time, so that more requests would be seen if there were any.
  faulty.fault = ({ file }) => (file.endsWith('.safetensors') ? { holdAt: 50_000, until: sleep(50) } : undefined);
  expect((await download(page, sharded)).error).toBeUndefined();
  expect(faulty.weights()).toHaveLength(shards().length);
  expect(Math.max(...faulty.weights().map(({ inFlight }) => inFlight))).toBe(2);
});

test('bytes of a shard are stored as they arrive, not when it is complete', async ({ faulty, faultyLab: page }) => {
  const [shard] = manifestOf(whole).shards;
  const half = shard!.bytes >> 1;
  let release = () => {};
  const until = new Promise<void>((resolve) => (release = resolve));
  faulty.fault = ({ file }) => (file === shard!.name ? { holdAt: half, until } : undefined);
  const loading = download(page, whole);
  await expect.poll(async () => (await storedBlobs(page))[shard!.sha256]).toBe(half);
  release();
  expect((await loading).error).toBeUndefined();
  expect((await storedBlobs(page))[shard!.sha256]).toBe(shard!.bytes);
  expect(faulty.weights()).toHaveLength(1);
});

test('with cache "none" shards go straight to the GPU, two requests at once, and nothing is stored', async ({
  faulty,
  faultyLab: page,
}) => {
  faulty.fault = ({ file }) => (file.endsWith('.safetensors') ? { holdAt: 50_000, until: sleep(20) } : undefined);
  const { error, progress } = await load(page, sharded, { cache: 'none' });
  expect(error).toBeUndefined();
  expect(progress.at(-1)).toMatchObject({ phase: 'ready', bytes: totalBytes(shards()) });
  expect(faulty.weights()).toHaveLength(shards().length);
  expect(Math.max(...faulty.weights().map(({ inFlight }) => inFlight))).toBeLessThanOrEqual(2);
  expect(await storedBlobs(page)).toEqual({});
  expect(await page.evaluate(() => window.haikuq.listStored())).toEqual([]);
});

test('without a worker a package loads and answers on the page’s own thread', async ({ lab: page }) => {
  expect((await load(page, whole, { worker: false })).error).toBeUndefined();
  const { result } = await chat(page, [user(PROMPT)], { temperature: 0, maxTokens: 3 });
  expect(result).toMatchObject({ finish: 'length', usage: { completionTokens: 3 } });
});

test('without subgroups, and with the least limits that WebGPU grants, the same is written', async ({ lab: page }) => {
  const device = { withoutF16: true, withoutSubgroups: true, defaultLimits: true };
  const { info, error } = await load(page, whole, { device });
  expect(error).toBeUndefined();
  expect(info!.adapter).toMatchObject({ f16: false, subgroups: null });
  const { result } = await chat(page, [user(PROMPT)], { temperature: 0, maxTokens: 8 });
  expect(result!.text).toBe(await nativeAnswer(whole, PROMPT, 8));
});

test('files that were picked load without any request for them', async ({ faulty, faultyLab: page }) => {
  const names = ['haikuq.json', ...filesOf(whole).map(({ name }) => name)];
  const error = await page.evaluate(
    async ([folder, names]) => {
      const files = await Promise.all(names.map(async (name) => new File([await (await fetch(folder + name)).blob()], name)));
      return window.haikuq.load(files).then((model) => void (window.model = model), window.lab.failureOf);
    },
    [`/packages/${whole.name}/`, names] as const,
  );
  expect(error).toBeUndefined();
  // Once each, by the test itself.
  expect(faulty.packageFiles()).toHaveLength(names.length - 1);
  expect((await chat(page, [user(PROMPT)], { temperature: 0, maxTokens: 2 })).result?.usage.completionTokens).toBe(2);
});

test('a load that is aborted says so, and keeps what has arrived', async ({ faulty, faultyLab: page }) => {
  const [shard] = manifestOf(whole).shards;
  faulty.fault = ({ file }) => (file === shard!.name ? { holdAt: 1_000_000, until: sleep(600_000, undefined, { ref: false }) } : undefined);
  const code = await page.evaluate(async (url) => {
    const controller = new AbortController();
    const loading = window.haikuq.load(url, { signal: controller.signal });
    loading.catch(() => undefined);
    while (Math.max(0, ...Object.values(await window.lab.storedBlobs())) < 1_000_000) await new Promise((next) => setTimeout(next, 50));
    controller.abort();
    return loading.then(
      () => 'loaded',
      (error: unknown) => window.lab.failureOf(error).code,
    );
  }, `/packages/${whole.name}/`);
  expect(code).toBe('aborted');
  expect((await storedBlobs(page))[shard!.sha256]).toBe(1_000_000);
});

test('storage that is too small is refused before any download, with what is needed and what there is', async ({
  faulty,
  faultyLab: page,
}) => {
  // On the page's own thread, where the browser's estimate can be replaced.
  await page.evaluate(() => (navigator.storage.estimate = () => Promise.resolve({ quota: 3_000_000, usage: 1_000_000 })));
  const { error } = await load(page, whole, { worker: false });
  expect(error).toMatchObject({ code: 'quota', details: { needed: totalBytes(filesOf(whole)), available: 2_000_000 } });
  expect(error!.message).toMatch(/needs 4\.9 MB .* grants 2\.0 MB/);
  expect(faulty.packageFiles()).toEqual([]);
});

test('storage that is full midway ends the load with what is missing; with more room the next load goes on', async ({
  faulty,
  faultyLab: page,
}) => {
  const session = await page.context().newCDPSession(page);
  const { origin } = new URL(faulty.url);
  await session.send('Storage.overrideQuotaForOrigin', { origin, quotaSize: 2_000_000 });
  const { error } = await load(page, whole);
  const stored = await storedBlobs(page);
  const storedBytes = Object.values(stored).reduce((sum, bytes) => sum + bytes, 0);
  expect(storedBytes).toBeGreaterThan(0);
  expect(storedBytes).toBeLessThanOrEqual(2_000_000);
  expect(error).toMatchObject({ code: 'quota', details: { needed: totalBytes(filesOf(whole)) - storedBytes } });

  await session.send('Storage.overrideQuotaForOrigin', { origin });
  faulty.requests.length = 0;
  expect((await download(page, whole)).error).toBeUndefined();
  const [shard] = manifestOf(whole).shards;
  expect(faulty.packageFiles().map(({ file, from }) => [file, from])).toEqual([[shard!.name, stored[shard!.sha256] ?? 0]]);
});

test('the error names a location that is no package, or not there', async ({ faulty, faultyLab: page }) => {
  expect((await load(page, { ...whole, name: 'absent' })).error).toMatchObject({
    code: 'network',
    details: { file: 'haikuq.json', status: 404 },
  });
  faulty.answer.set('/packages/page/', (_, response) => response.setHeader('content-type', 'text/html').end('<!doctype html><p>Sign in'));
  expect((await load(page, { ...whole, name: 'page' })).error).toMatchObject({ code: 'network', details: { file: 'haikuq.json' } });
  faulty.answer.set('/packages/text/', (_, response) => response.setHeader('content-type', 'text/plain').end('Sign in'));
  expect((await load(page, { ...whole, name: 'text' })).error).toMatchObject({ code: 'invalid-package', details: { file: 'haikuq.json' } });
});
