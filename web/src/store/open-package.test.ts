import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Source } from '../engine/engine.js';
import { fakeEngines } from '../testing/fake-engine.js';
import { fakeLocks } from '../testing/fake-locks.js';
import { fakeOpfs, type FakeOpfs } from '../testing/fake-opfs.js';
import { fakePackage, type FakePackage, someBytes } from '../testing/fake-package.js';
import { fakeServer, type FakeServer } from '../testing/fake-server.js';
import type { DownloadCounts } from './download.js';
import { hasherHere } from './hash.js';
import { stageClock } from './stages.js';
import { resolveLocation } from './location.js';
import { openPackage, type OpenPackage } from './open-package.js';
import { listStored, removeStored, storageUse } from './stored.js';

const URL_PREFIX = 'https://example.org/packages/tiny/';
const OTHER_PREFIX = 'https://example.org/packages/other/';

let opfs: FakeOpfs;
let server: FakeServer;
let pack: FakePackage;
let counts: DownloadCounts;

beforeEach(async () => {
  opfs = fakeOpfs({ sync: true });
  vi.stubGlobal('navigator', { storage: opfs.storage, locks: fakeLocks() });
  vi.stubGlobal('caches', undefined);
  pack = await fakePackage(
    { s1: someBytes(9000, 1), s2: someBytes(12000, 2), s3: someBytes(5000, 3) },
    { 'tokenizer.json': someBytes(700, 4) },
  );
  server = fakeServer(pack.files);
  counts = { downloadedBytes: 0, downloadTotalBytes: 0 };
});
afterEach(() => vi.unstubAllGlobals());

interface Options {
  prefix?: string;
  cache?: 'auto' | 'cache-api' | 'none';
  signal?: AbortSignal;
}
function open({ prefix = URL_PREFIX, cache = 'auto', signal = new AbortController().signal }: Options = {}): Promise<OpenPackage> {
  const onProgress = (now: DownloadCounts) => (counts = now);
  return openPackage(resolveLocation(prefix, undefined), {
    cache,
    network: server.network,
    signal,
    stages: stageClock(),
    hasher: hasherHere,
    onProgress,
  });
}
/** Reads all as an engine does: hashes checked, one other copy asked for. */
async function read(source: Source): Promise<void> {
  await fakeEngines().module.Engine.load(source, {}, () => undefined);
}
async function load(options?: Options): Promise<void> {
  const opened = await open(options);
  try {
    await read(opened.newSource());
    await opened.markComplete();
  } finally {
    await opened.close();
  }
}
const requested = () => server.requests.filter(({ file }) => file !== 'haikuq.json').map(({ file }) => file);
const blob = (name: string) => `haikuq/blobs/${pack.shards.find((shard) => shard.name === name)?.sha256}`;
const blobCount = () => opfs.paths().filter((path) => path.startsWith('haikuq/blobs/')).length;

describe('a package behind a URL', () => {
  it('is downloaded once, two files at a time, each with its hash in the query', async () => {
    await load();
    expect(requested().sort()).toEqual(['s1', 's2', 's3', 'tokenizer.json']);
    expect(server.maxInFlight).toBe(2);
    expect(server.requests.find(({ file }) => file === 's2')?.sha256).toBe(pack.shards[1]?.sha256);
    expect(server.requests.find(({ file }) => file === 'haikuq.json')?.sha256).toBeNull();
    expect(counts).toEqual({ downloadedBytes: 26700, downloadTotalBytes: 26700 });
  });

  it('is read without network from then on', async () => {
    await load();
    server.down = true;
    server.requests = [];
    await load();
    expect(requested()).toEqual([]);
    expect(counts.downloadTotalBytes).toBe(0);
  });

  it('downloads nothing before an engine reads more than the manifest', async () => {
    const opened = await open();
    await opened.newSource().read('haikuq.json', 0, 1 << 26);
    expect(requested()).toEqual([]);
    await opened.close();
  });

  it('is the stored one where the answer is no manifest', async () => {
    await load();
    server.files.set('haikuq.json', new TextEncoder().encode('<html>Please log in'));
    await load();
    server.trouble.set('haikuq.json', [{ status: 404 }]);
    await load();
    await removeStored(URL_PREFIX);
    await expect(load()).rejects.toMatchObject({ code: 'invalid-package' });
  });

  it('asks once for a file that is a page, whoever waits for it', async () => {
    server.answers.set('s2', () => new Response('<!doctype html>', { headers: { 'content-type': 'text/html' } }));
    await expect(load()).rejects.toMatchObject({ code: 'network', details: { file: 's2' } });
    expect(requested().filter((file) => file === 's2')).toHaveLength(1);
    server.answers.clear();
    await load();
  });

  it('goes on in a later load where an earlier one was broken off', async () => {
    server.trouble.set('s2', [{ breakAfter: 7000 }, ...Array.from({ length: 20 }, () => ({ status: 503 }))]);
    await expect(load()).rejects.toMatchObject({ code: 'network', details: { file: 's2', status: 503 } });
    expect(opfs.file(blob('s2'))).toHaveLength(7000);
    server.trouble.clear();
    server.requests = [];
    await load();
    expect(server.requests.find(({ file }) => file === 's2')?.range).toBe('bytes=7000-');
    expect(requested()).not.toContain('s1');
  });

  it('keeps what arrived when the load is aborted', async () => {
    const controller = new AbortController();
    server.trouble.set('s1', [{ stallAfter: 4000 }]);
    const loading = load({ signal: controller.signal });
    loading.catch(() => undefined);
    await vi.waitUntil(() => opfs.file(blob('s1'))?.length === 4000);
    controller.abort();
    await expect(loading).rejects.toMatchObject({ code: 'aborted' });
    expect(opfs.file(blob('s1'))).toHaveLength(4000);
    expect(server.inFlight).toBe(0);
    await load();
  });

  it('downloads only what an update changed, and deletes what nobody refers to any more', async () => {
    await load();
    const before = blob('s2');
    pack = await fakePackage(
      { s1: someBytes(9000, 1), s2: someBytes(12000, 22), s3: someBytes(5000, 3) },
      { 'tokenizer.json': someBytes(700, 4) },
    );
    for (const [name, bytes] of Object.entries(pack.files)) server.files.set(name, bytes);
    server.requests = [];
    await load();
    expect(requested()).toEqual(['s2']);
    expect(opfs.file(before)).toBeUndefined();
    expect(blobCount()).toBe(4);
  });

  it('keeps the old version until an update is complete', async () => {
    await load();
    const update = await fakePackage({ s1: someBytes(9000, 11) }, {});
    server.files.set('haikuq.json', update.files['haikuq.json'] as Uint8Array);
    await expect(load()).rejects.toMatchObject({ code: 'integrity' });
    server.down = true;
    await load();
    expect(blobCount()).toBeGreaterThanOrEqual(4);
  });

  describe('with an update that is stored in part', () => {
    let update: FakePackage;
    beforeEach(async () => {
      await load();
      update = await fakePackage({ s1: someBytes(9000, 11), s2: someBytes(12000, 12) });
      for (const [name, bytes] of Object.entries(update.files)) server.files.set(name, bytes);
      server.trouble.set(
        's2',
        Array.from({ length: 9 }, () => ({ status: 404 })),
      );
      await expect(load()).rejects.toMatchObject({ code: 'network' });
      server.trouble.clear();
      server.requests = [];
    });

    it('goes on with it after loads of the old version without network', async () => {
      server.down = true;
      await load();
      server.down = false;
      await load();
      expect(requested()).toEqual(['s2']);
      expect(blobCount()).toBe(2);
    });

    it('keeps it when another tab completes the old version meanwhile', async () => {
      server.down = true;
      const old = await open();
      server.down = false;
      const opened = await open();
      await read(old.newSource());
      await old.markComplete();
      server.down = true;
      expect(opfs.file(`haikuq/blobs/${update.shards[0]?.sha256}`)).toHaveLength(9000);
      await opened.close();
      await load();
    });

    it('gives it up once the server has the old version again', async () => {
      for (const [name, bytes] of Object.entries(pack.files)) server.files.set(name, bytes);
      await load();
      expect(requested()).toEqual([]);
      expect(blobCount()).toBe(4);
    });
  });

  it('shares equal files with other packages, and leaves them when one is removed', async () => {
    await load();
    server.requests = [];
    const other = await fakePackage({ t1: someBytes(3000, 7) }, { 'tokenizer.json': someBytes(700, 4) });
    for (const [name, bytes] of Object.entries(other.files)) server.files.set(name, bytes);
    await load({ prefix: OTHER_PREFIX });
    expect(requested()).toEqual(['t1']);
    await removeStored(URL_PREFIX);
    expect(blobCount()).toBe(2);
    server.down = true;
    await load({ prefix: OTHER_PREFIX });
  });

  it('replaces a stored shard that was damaged', async () => {
    await load();
    (opfs.file(blob('s3')) as Uint8Array)[4321]! ^= 1;
    server.requests = [];
    await load();
    expect(server.requests.filter(({ file }) => file === 's3')).toEqual([
      { file: 's3', range: null, sha256: pack.shards[2]?.sha256, cache: 'no-store' },
    ]);
    expect(requested()).toEqual(['s3']);
  });

  it('fetches a shard that is gone', async () => {
    await load();
    await (await (await opfs.storage.getDirectory()).getDirectoryHandle('haikuq'))
      .getDirectoryHandle('blobs')
      .then((folder) => folder.removeEntry(blob('s1').slice(13)));
    server.requests = [];
    await load();
    expect(requested()).toEqual(['s1']);
  });

  it('gives a server that sends wrong bytes a second chance and no third', async () => {
    server.files.set('s2', someBytes(12000, 99));
    await expect(load()).rejects.toMatchObject({ code: 'integrity', details: { file: 's2' } });
    expect(requested().filter((file) => file === 's2')).toHaveLength(2);
  });

  it('asks for room first, and says what is missing', async () => {
    opfs.options.quota = 20000;
    await expect(load()).rejects.toMatchObject({ code: 'quota', details: { needed: 26700, available: expect.any(Number) as number } });
    expect(requested()).toEqual([]);
  });

  it('gives up the old version where there is no room for two', async () => {
    await load();
    pack = await fakePackage({ s1: someBytes(20000, 11) });
    for (const [name, bytes] of Object.entries(pack.files)) server.files.set(name, bytes);
    opfs.options.quota = 30000;
    await load();
    expect(blobCount()).toBe(1);
  });

  it('keeps the old version where giving it up would not make enough room', async () => {
    await load();
    // 26,000 bytes are new; of the old version's 26,700, another package needs the tokenizer and the new one keeps s3.
    const other = await fakePackage({ t1: someBytes(300, 7) }, { 'tokenizer.json': someBytes(700, 4) });
    for (const [name, bytes] of Object.entries(other.files)) server.files.set(name, bytes);
    await load({ prefix: OTHER_PREFIX });
    const update = await fakePackage({ s1: someBytes(26000, 11), s3: someBytes(5000, 3) });
    for (const [name, bytes] of Object.entries(update.files)) server.files.set(name, bytes);
    const used = () => opfs.paths().reduce((sum, path) => sum + (opfs.file(path)?.length ?? 0), 0);
    opfs.options.quota = used() + 4000;
    server.requests = [];
    await expect(load()).rejects.toMatchObject({ code: 'quota', details: { needed: 26000 } });
    expect(requested()).toEqual([]);
    server.down = true;
    await load();
    server.down = false;
    // s1 and s2 of the old version make 21,000 bytes of room.
    opfs.options.quota = used() + 6000;
    await load();
    expect(requested()).toEqual(['s1']);
  });

  it('says so when storage is full midway, and keeps a clean beginning', async () => {
    const estimate = vi.spyOn(opfs.storage, 'estimate').mockResolvedValue({ quota: 1e9, usage: 0 });
    opfs.options.quota = 16000;
    // The browser's estimate is wrong, and not told.
    await expect(load()).rejects.toMatchObject({ code: 'quota', details: { needed: expect.any(Number) as number } });
    await expect(load()).rejects.not.toMatchObject({ details: { available: expect.any(Number) as number } });
    estimate.mockRestore();
    opfs.options.quota = 1e9;
    server.requests = [];
    await load();
    expect(server.requests.some(({ range }) => range !== null)).toBe(true);
  });

  it('is downloaded by one of two tabs', async () => {
    await Promise.all([load(), load()]);
    expect(requested().sort()).toEqual(['s1', 's2', 's3', 'tokenizer.json']);
  });

  it('survives that two tabs find the same shard damaged', async () => {
    await load();
    (opfs.file(blob('s2')) as Uint8Array)[7]! ^= 1;
    await Promise.all([load(), load()]);
    server.down = true;
    await load();
  });

  it('is listed, measured and removed', async () => {
    await load();
    expect(await listStored()).toEqual([{ url: URL_PREFIX, bytes: 26700, totalBytes: 26700, complete: true, store: 'opfs' }]);
    expect((await storageUse()).packageBytes).toBe(26700);
    await removeStored('https://example.org/packages/tiny');
    expect(await listStored()).toEqual([]);
    expect(blobCount()).toBe(0);
  });

  it('is listed as incomplete while it is', async () => {
    server.trouble.set(
      's3',
      Array.from({ length: 9 }, () => ({ status: 404 })),
    );
    await expect(load()).rejects.toMatchObject({ code: 'network' });
    expect(await listStored()).toMatchObject([{ url: URL_PREFIX, complete: false, totalBytes: 26700 }]);
  });

  it('is not listed where another store has it whole', async () => {
    server.trouble.set(
      's3',
      Array.from({ length: 9 }, () => ({ status: 404 })),
    );
    await expect(load()).rejects.toMatchObject({ code: 'network' });
    const { fakeCaches } = await import('../testing/fake-caches.js');
    vi.stubGlobal('caches', fakeCaches());
    server.trouble.clear();
    await load({ cache: 'cache-api' });
    expect(await listStored()).toMatchObject([{ url: URL_PREFIX, complete: true, store: 'cache-api' }]);
    await removeStored(URL_PREFIX);
    expect(await listStored()).toEqual([]);
    expect(blobCount()).toBe(0);
  });
});

describe('without a store', () => {
  it('streams each file once, two connections at most, and stores nothing', async () => {
    await load({ cache: 'none' });
    expect(requested().sort()).toEqual(['s1', 's2', 's3', 'tokenizer.json']);
    expect(server.requests.every(({ range }) => range === null)).toBe(true);
    expect(server.maxInFlight).toBe(2);
    expect(opfs.paths()).toEqual([]);
    expect(counts).toEqual({ downloadedBytes: 26700, downloadTotalBytes: 26700 });
  });

  it('is what `auto` comes to where the browser has no store', async () => {
    vi.stubGlobal('navigator', {});
    await load();
    expect(opfs.paths()).toEqual([]);
  });

  it('takes no more from the network than the engine asks for', async () => {
    const opened = await open({ cache: 'none' });
    const source = opened.newSource();
    await source.read('s1', 0, 1500);
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(server.sent).toBeLessThanOrEqual(4000);
    await opened.close();
    expect(server.inFlight).toBe(0);
  });

  it('reads anywhere with a Range request', async () => {
    const source = (await open({ cache: 'none' })).newSource();
    expect(await source.read('s2', 5000, 5100)).toEqual(someBytes(12000, 2).subarray(5000, 5100));
    expect(await source.read('s2', 5100, 5200)).toEqual(someBytes(12000, 2).subarray(5100, 5200));
    expect(await source.read('s2', 300, 400)).toEqual(someBytes(12000, 2).subarray(300, 400));
    expect(server.requests.filter(({ file }) => file === 's2').map(({ range }) => range)).toEqual(['bytes=5000-', 'bytes=300-']);
  });

  it('survives broken connections, with and without ranges', async () => {
    server.trouble.set('s2', [{ breakAfter: 3500 }]);
    await load({ cache: 'none' });
    server.ignoreRanges = true;
    server.trouble.set('s2', [{ breakAfter: 3500 }]);
    await load({ cache: 'none' });
  });

  it('asks again for a file that is wrong, once', async () => {
    const right = server.files.get('s2') as Uint8Array;
    server.files.set('s2', someBytes(12000, 99));
    const fetchIt = server.network.fetch;
    server.network.fetch = (url, init) => {
      if (init.cache === 'reload') server.files.set('s2', right);
      return fetchIt(url, init);
    };
    await load({ cache: 'none' });
    server.network.fetch = fetchIt;
    server.files.set('s2', someBytes(12000, 99));
    await expect(load({ cache: 'none' })).rejects.toMatchObject({ code: 'integrity' });
  });
});

describe('the Cache API', () => {
  it('does what OPFS does', async () => {
    const { fakeCaches } = await import('../testing/fake-caches.js');
    vi.stubGlobal('caches', fakeCaches());
    await load({ cache: 'cache-api' });
    server.down = true;
    await load({ cache: 'cache-api' });
    expect(await listStored()).toMatchObject([{ url: URL_PREFIX, complete: true, store: 'cache-api' }]);
    expect(opfs.paths().filter((path) => path.startsWith('haikuq/blobs'))).toEqual([]);
  });

  it('is refused by name where it was asked for and is not there', async () => {
    await expect(load({ cache: 'cache-api' })).rejects.toMatchObject({
      code: 'invalid-argument',
      message: expect.stringContaining('cache-api') as string,
    });
  });
});

describe('a stored shard', () => {
  it('is read once in a load, in place', async () => {
    await load();
    expect(opfs.readInPlace.sort()).toEqual(['s1', 's2', 's3'].map(blob).sort());
    opfs.readInPlace.length = 0;
    await load();
    expect(opfs.readInPlace.sort()).toEqual(['s1', 's2', 's3'].map(blob).sort());
    expect(requested()).toHaveLength(4);
  });

  it('is read another way where a tab has it open in place', async () => {
    await load();
    const folder = await (await (await opfs.storage.getDirectory()).getDirectoryHandle('haikuq')).getDirectoryHandle('blobs');
    const handle = await folder.getFileHandle((pack.shards[1] as { sha256: string }).sha256);
    await (handle as unknown as { createSyncAccessHandle(): Promise<unknown> }).createSyncAccessHandle();
    await load();
    expect(requested()).toHaveLength(4);
  });
});

describe('picked files', () => {
  const files = (from = pack.files) => Object.entries(from).map(([name, bytes]) => new File([bytes], name));
  const openFiles = (list: File[]) =>
    openPackage(resolveLocation(list, undefined), {
      cache: 'auto',
      network: server.network,
      signal: new AbortController().signal,
      stages: stageClock(),
      hasher: hasherHere,
      onProgress: () => undefined,
    });

  it('are read where they lie', async () => {
    const opened = await openFiles(files());
    await read(opened.newSource());
    expect(server.requests).toEqual([]);
    expect(opfs.paths()).toEqual([]);
  });

  it('must be all there, whole and right', async () => {
    await expect(openFiles(files().slice(0, 2))).rejects.toMatchObject({ code: 'invalid-package', details: { file: 'haikuq.json' } });
    const { s2: _, ...without } = pack.files;
    await expect(openFiles(files(without)).then((opened) => read(opened.newSource()))).rejects.toMatchObject({
      code: 'invalid-package',
      details: { file: 's2' },
    });
    const short = files({ ...pack.files, s3: someBytes(4999, 3) });
    await expect(openFiles(short).then((opened) => read(opened.newSource()))).rejects.toMatchObject({
      code: 'integrity',
      details: { file: 's3', needed: 5000, available: 4999 },
    });
    const wrong = files({ ...pack.files, s3: someBytes(5000, 33) });
    await expect(openFiles(wrong).then((opened) => read(opened.newSource()))).rejects.toMatchObject({
      code: 'integrity',
      details: { file: 's3' },
    });
  });

  it('may be a folder', async () => {
    const { storage, ...folder } = fakeOpfs({ sync: false });
    const handle = await (await storage.getDirectory()).getDirectoryHandle('tiny');
    for (const [name, bytes] of Object.entries(pack.files)) {
      const stream = await (await handle.getFileHandle(name, { create: true })).createWritable();
      await stream.write({ type: 'write', position: 0, data: bytes });
      await stream.close();
    }
    expect(folder.paths()).toContain('tiny/haikuq.json');
    const location = { kind: 'folder' as const, name: 'tiny', handle };
    const opened = await openPackage(location, {
      cache: 'auto',
      network: server.network,
      signal: new AbortController().signal,
      stages: stageClock(),
      hasher: hasherHere,
      onProgress: () => undefined,
    });
    await read(opened.newSource());
  });
});
