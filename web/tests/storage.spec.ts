/** Stored files are used, checked, repaired, shared between tabs, and replaced when the package changes. */

import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { faultyServer } from './support/faulty-server.ts';
import { serve } from './support/haikuq.ts';
import { filesOf, manifestOf, sharded, updated, whole } from './support/packages.ts';
import { chat, damagedBlobs, download, expect, load, openLab, PROMPT, storedBlobs, test, user } from './support/test.ts';

const shards = () => manifestOf(sharded).shards;

test('a stored package loads again without a request for any of its files, also with the server gone', async ({
  faulty,
  faultyLab: page,
}) => {
  expect((await load(page, sharded)).error).toBeUndefined();
  await page.reload();
  await page.waitForFunction(() => 'lab' in window);
  faulty.requests.length = 0;
  const { progress } = await load(page, sharded);
  expect(progress.at(-1)).toMatchObject({ phase: 'ready', downloadedBytes: 0, downloadTotalBytes: 0 });
  expect(faulty.packageFiles()).toEqual([]);
  await page.evaluate(() => window.model.dispose());

  await faulty.goDown();
  expect((await load(page, sharded)).error).toBeUndefined();
  expect((await chat(page, [user(PROMPT)], { temperature: 0, maxTokens: 2 })).result?.usage.completionTokens).toBe(2);
  expect(await page.evaluate(() => window.haikuq.listStored())).toMatchObject([
    { url: `${faulty.url}packages/${sharded.name}/`, complete: true, store: 'opfs' },
  ]);
});

test('where the Cache API is the store, it serves as well', async ({ faulty, faultyLab: page }) => {
  expect((await load(page, sharded, { cache: 'cache-api' })).error).toBeUndefined();
  expect(await page.evaluate(() => window.haikuq.listStored())).toMatchObject([{ complete: true, store: 'cache-api' }]);
  expect(await storedBlobs(page)).toEqual({});
  await page.evaluate(() => window.model.dispose());
  // The WebAssembly module comes from the HTTP cache.
  await faulty.goDown();
  const { error, progress } = await load(page, sharded, { cache: 'cache-api' });
  expect(error).toBeUndefined();
  expect(progress.at(-1)).toMatchObject({ phase: 'ready', downloadedBytes: 0, downloadTotalBytes: 0 });
});

test('a flipped bit in a stored shard is refused, and repaired by fetching that shard alone', async ({ faulty, faultyLab: page }) => {
  expect((await load(page, sharded)).error).toBeUndefined();
  await page.evaluate(() => window.model.dispose());
  const shard = shards()[10]!;
  await page.evaluate(([sha256, at]) => window.lab.damageBlob(sha256, at), [shard.sha256, shard.bytes - 5_000] as const);
  faulty.requests.length = 0;

  const { error, progress } = await load(page, sharded);
  expect(error).toBeUndefined();
  expect(faulty.packageFiles().map(({ file, from }) => [file, from])).toEqual([[shard.name, 0]]);
  expect(progress.at(-1)).toMatchObject({ phase: 'ready', downloadedBytes: shard.bytes });
  expect(await damagedBlobs(page)).toEqual([]);
});

test('a shard that arrives damaged is fetched once more; damaged again, the load ends with "integrity"', async ({
  faulty,
  faultyLab: page,
}) => {
  const shard = shards()[3]!;
  const fetches = () => faulty.weights().filter(({ file }) => file === shard.name).length;
  faulty.fault = ({ file }) => (file === shard.name ? { flipAt: 100_000 } : undefined);
  const { error } = await load(page, sharded);
  expect(error).toMatchObject({ code: 'integrity', details: { file: shard.name } });
  expect(error!.message).toContain(shard.name);
  expect(fetches()).toBe(2);

  // The server is mended: the next load heals what is stored.
  faulty.reset();
  expect((await load(page, sharded)).error).toBeUndefined();
  expect(fetches()).toBe(1);
});

test('after an update only shards whose hash changed are downloaded, and the old ones are deleted', async ({ browser }) => {
  const folder = mkdtempSync(join(tmpdir(), 'haikuq-update-'));
  const name = 'model';
  const path = join(folder, name);
  cpSync(sharded.folder, path, { recursive: true });
  const server = await serve([path]);
  const faulty = await faultyServer(server);
  try {
    const page = await openLab(await browser.newContext(), faulty);
    expect((await load(page, { ...sharded, name })).error).toBeUndefined();
    await page.evaluate(() => window.model.dispose());

    rmSync(path, { recursive: true });
    cpSync(updated.folder, path, { recursive: true });
    faulty.requests.length = 0;
    const { error, progress } = await load(page, { ...sharded, name });
    expect(error).toBeUndefined();

    const before = new Set(filesOf(sharded).map(({ sha256 }) => sha256));
    const changed = filesOf(updated).filter(({ sha256 }) => !before.has(sha256));
    expect(changed).toHaveLength(1);
    expect(faulty.packageFiles().map(({ file }) => file)).toEqual(changed.map(({ name }) => name));
    expect(progress.at(-1)).toMatchObject({ phase: 'ready', downloadedBytes: changed[0]!.bytes });
    const stored = Object.keys(await storedBlobs(page));
    expect(stored.sort()).toEqual(
      filesOf(updated)
        .map(({ sha256 }) => sha256)
        .sort(),
    );
    await page.context().close();
  } finally {
    await faulty.stop();
    await server.stop();
    rmSync(folder, { recursive: true });
  }
});

test('two tabs that load at once download every file once in total, and both answer', async ({ faulty, faultyLab: one }) => {
  const two = await openLab(one.context(), faulty);
  const loads = await Promise.all([load(one, sharded), load(two, sharded)]);
  expect(loads.map(({ error }) => error)).toEqual([undefined, undefined]);
  expect(
    faulty
      .packageFiles()
      .map(({ file }) => file)
      .sort(),
  ).toEqual(
    filesOf(sharded)
      .map(({ name }) => name)
      .sort(),
  );
  const answers = await Promise.all([one, two].map((page) => chat(page, [user(PROMPT)], { temperature: 0, maxTokens: 3 })));
  expect(answers[0]!.result?.text).not.toBe('');
  expect(answers[1]!.result?.text).toBe(answers[0]!.result?.text);
});

test('a package that is removed is gone, but for what another one shares with it', async ({ faultyLab: page }) => {
  const files = (testPackage: typeof whole) =>
    filesOf(testPackage)
      .map(({ sha256 }) => sha256)
      .sort();
  for (const testPackage of [whole, sharded]) {
    expect((await download(page, testPackage)).error).toBeUndefined();
  }
  await page.evaluate((url) => window.haikuq.removeStored(url), `/packages/${sharded.name}/`);
  expect(Object.keys(await storedBlobs(page)).sort()).toEqual(files(whole));
  await page.evaluate((url) => window.haikuq.removeStored(url), `/packages/${whole.name}/`);
  expect(await storedBlobs(page)).toEqual({});
  expect(await page.evaluate(() => window.haikuq.storageUse())).toMatchObject({ packageBytes: 0 });
});
