/** Downloads that break: bytes that have arrived are kept, and only the rest is asked for. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { FaultyServer } from './support/faulty-server.ts';
import { filesOf, manifestOf, sharded, totalBytes, whole } from './support/packages.ts';
import { download, expect, load, openLab, storedBlobs, test } from './support/test.ts';

const never = () => sleep(3_600_000, undefined, { ref: false });
const shard = () => manifestOf(whole).shards[0]!;

/** Bytes that were sent of each file, which is all of it once where nothing is sent twice. */
function sentBytes(faulty: FaultyServer): Record<string, number> {
  const sent: Record<string, number> = {};
  for (const { file, sent: bytes } of faulty.packageFiles()) sent[file] = (sent[file] ?? 0) + bytes;
  return sent;
}

test('a connection that breaks off is continued at the byte where it broke', async ({ faulty, faultyLab: page }) => {
  const breaks = [1_200_000, 3_000_000];
  faulty.fault = ({ file }) => (file === shard().name && breaks.length > 0 ? { breakAt: breaks.shift()! } : undefined);
  const { error, progress } = await download(page, whole);
  expect(error).toBeUndefined();
  expect(faulty.weights().map(({ from }) => from)).toEqual([0, 1_200_000, 3_000_000]);
  expect(sentBytes(faulty)[shard().name]).toBe(shard().bytes);
  expect(progress.at(-1)).toMatchObject({ downloadedBytes: totalBytes(filesOf(whole)) });
});

test('a server that goes down midway and comes back is asked for the missing bytes alone', async ({ faulty, faultyLab: page }) => {
  const held = manifestOf(sharded).shards[8]!;
  faulty.fault = ({ file }) => (file === held.name ? { holdAt: 100_000, until: never() } : undefined);
  const loading = load(page, sharded);
  await expect.poll(async () => (await storedBlobs(page))[held.sha256]).toBe(100_000);
  await faulty.goDown();
  faulty.fault = () => undefined;
  await sleep(1_000);
  await faulty.comeUp();
  expect((await loading).error).toBeUndefined();
  const requests = faulty.weights().filter(({ file }) => file === held.name);
  expect(requests.map(({ from }) => from)).toEqual([0, 100_000]);
  for (const { name, bytes } of manifestOf(sharded).shards) expect(sentBytes(faulty)[name], name).toBe(bytes);
});

test('a page that is closed midway is continued by the next one', async ({ faulty, faultyLab: first }) => {
  const context = first.context();
  faulty.fault = ({ file }) => (file === shard().name ? { holdAt: 2_500_000, until: never() } : undefined);
  const loading = load(first, whole).catch(() => undefined);
  await expect.poll(async () => (await storedBlobs(first))[shard().sha256]).toBe(2_500_000);
  await first.close();
  await loading;
  faulty.reset();

  const second = await openLab(context, faulty);
  expect(await second.evaluate(() => window.haikuq.listStored())).toMatchObject([{ complete: false }]);
  const { error, progress } = await load(second, whole);
  expect(error).toBeUndefined();
  expect(faulty.packageFiles().map(({ file, from }) => [file, from])).toEqual([[shard().name, 2_500_000]]);
  expect(sentBytes(faulty)[shard().name]).toBe(shard().bytes - 2_500_000);
  expect(progress.at(-1)).toMatchObject({ downloadedBytes: shard().bytes - 2_500_000, downloadTotalBytes: shard().bytes - 2_500_000 });
});

test('a server without ranges sends everything again, and the result is right', async ({ faulty, faultyLab: page }) => {
  let broken = false;
  faulty.fault = ({ file }) => {
    if (file !== shard().name) return undefined;
    if (broken) return { ignoreRange: true };
    broken = true;
    return { breakAt: 2_000_000, ignoreRange: true };
  };
  expect((await download(page, whole)).error).toBeUndefined();
  expect(sentBytes(faulty)[shard().name]).toBe(2_000_000 + shard().bytes);
});

test('a server that is busy is asked again', async ({ faulty, faultyLab: page }) => {
  let refusals = 2;
  faulty.fault = ({ file }) => (file === shard().name && refusals-- > 0 ? { status: 503 } : undefined);
  expect((await download(page, whole)).error).toBeUndefined();
  expect(faulty.weights()).toHaveLength(3);
});

test('a file that the server refuses ends the load with its name and status', async ({ faulty, faultyLab: page }) => {
  faulty.fault = ({ file }) => (file === shard().name ? { status: 403 } : undefined);
  expect((await load(page, whole)).error).toMatchObject({ code: 'network', details: { file: shard().name, status: 403 } });
});
