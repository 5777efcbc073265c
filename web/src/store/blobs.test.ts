import { describe, expect, it } from 'vitest';
import { fakeCaches } from '../testing/fake-caches.js';
import { fakeOpfs } from '../testing/fake-opfs.js';
import { someBytes } from '../testing/fake-package.js';
import type { BlobStore } from './blobs.js';
import { openCacheApi } from './cache-api.js';
import { openOpfs } from './opfs.js';

const A = 'a'.repeat(64);
const B = 'b'.repeat(64);
const MB = 1024 * 1024;

/** In place of `toEqual`, which takes minutes for megabytes. */
const same = (a: Uint8Array, b: Uint8Array) => a.length === b.length && a.every((byte, i) => byte === b[i]);

/** The same promises for every store; `quota` in bytes. */
const stores: [name: string, open: (quota?: number) => Promise<BlobStore | undefined>][] = [
  ['OPFS in a worker', (quota) => openOpfs('write', fakeOpfs({ sync: true, ...(quota ? { quota } : {}) }).storage)],
  [
    'OPFS in a private worker',
    (quota) => openOpfs('write', fakeOpfs({ sync: true, whenFull: 'wrapped error', ...(quota ? { quota } : {}) }).storage),
  ],
  ['OPFS on a page', (quota) => openOpfs('write', fakeOpfs({ sync: false, ...(quota ? { quota } : {}) }).storage)],
  ['Cache API', (quota) => openCacheApi(fakeCaches(quota))],
];

describe.each(stores)('%s', (_, openStore) => {
  async function open(quota?: number): Promise<BlobStore> {
    const store = await openStore(quota);
    if (!store) throw new Error('the store does not open');
    return store;
  }
  async function write(store: BlobStore, sha256: string, ...pieces: Uint8Array<ArrayBuffer>[]) {
    const writer = await store.append(sha256);
    for (const piece of pieces) await writer.write(piece);
    await writer.close();
  }

  it('appends, over several writers, and reads any range', async () => {
    const store = await open();
    const bytes = someBytes(10 * MB + 123, 1);
    expect(await store.size(A)).toBe(0);
    await write(store, A, bytes.slice(0, 3 * MB), bytes.slice(3 * MB, 6 * MB + 5));
    expect(await store.size(A)).toBe(6 * MB + 5);
    await write(store, A, bytes.slice(6 * MB + 5, 9 * MB), bytes.slice(9 * MB));
    expect(await store.size(A)).toBe(bytes.length);
    for (const [start, end] of [
      [0, 10],
      [4 * MB - 3, 4 * MB + 3],
      [6 * MB, 7 * MB],
      [10 * MB, bytes.length],
      [bytes.length, bytes.length + 9],
    ] as const) {
      expect(same(await store.read(A, start, end), bytes.subarray(start, end)), `${start} to ${end}`).toBe(true);
    }
  });

  it('starts again where asked', async () => {
    const store = await open();
    await write(store, A, someBytes(5 * MB, 1));
    const writer = await store.append(A);
    await writer.write(someBytes(100, 2));
    await writer.restart();
    await writer.write(someBytes(200, 3));
    await writer.close();
    expect(await store.size(A)).toBe(200);
    expect(await store.read(A, 0, 300)).toEqual(someBytes(200, 3));
  });

  it('lists and removes', async () => {
    const store = await open();
    await write(store, A, someBytes(100, 1));
    await write(store, B, someBytes(5 * MB, 2));
    const list = await store.list();
    expect(list.sort((a, b) => a.bytes - b.bytes)).toEqual([
      { sha256: A, bytes: 100 },
      { sha256: B, bytes: 5 * MB },
    ]);
    await store.remove(B);
    await store.remove(B);
    expect(await store.list()).toEqual([{ sha256: A, bytes: 100 }]);
    expect(await store.read(B, 0, 10)).toHaveLength(0);
  });

  it('keeps records', async () => {
    const store = await open();
    expect(await store.readRecord(A)).toBeUndefined();
    await store.writeRecord(A, 'a longer text');
    await store.writeRecord(A, 'tëxt');
    expect(await store.readRecord(A)).toBe('tëxt');
    expect(await store.listRecords()).toEqual([A]);
    expect(await store.list()).toEqual([]);
    await store.removeRecord(A);
    expect(await store.listRecords()).toEqual([]);
  });

  it('says when it is full, and keeps a clean beginning', async () => {
    const store = await open(20.5 * MB);
    const bytes = someBytes(24 * MB, 4);
    const writer = await store.append(A);
    async function fill() {
      try {
        for (let at = 0; at < bytes.length; at += MB) await writer.write(bytes.slice(at, at + MB));
      } finally {
        await writer.close();
      }
    }
    await expect(fill()).rejects.toMatchObject({ code: 'quota' });
    const size = await store.size(A);
    expect(size).toBeGreaterThanOrEqual(16 * MB);
    expect(size).toBeLessThanOrEqual(20 * MB);
    expect(size % MB, 'whole pieces').toBe(0);
    expect(same(await store.read(A, 0, size), bytes.subarray(0, size))).toBe(true);
  });
});

describe('openOpfs', () => {
  it('is undefined where there is none, or it is closed', async () => {
    expect(await openOpfs('write', {} as StorageManager)).toBeUndefined();
    const closed = { getDirectory: () => Promise.reject(new DOMException('private', 'SecurityError')) };
    expect(await openOpfs('write', closed as unknown as StorageManager)).toBeUndefined();
  });

  it('is there to look after what a worker wrote where pages cannot write', async () => {
    const { storage } = fakeOpfs({ sync: false, readOnly: true });
    expect(await openOpfs('write', storage)).toBeUndefined();
    expect(await openOpfs('look after', storage)).toBeDefined();
  });

  it('waits for a file that a page before it still holds', async () => {
    const opfs = fakeOpfs({ sync: true });
    const store = (await openOpfs('write', opfs.storage)) as BlobStore;
    const first = await store.append(A);
    await first.write(someBytes(10, 1));
    setTimeout(() => void first.close(), 150);
    const second = await store.append(A);
    await second.write(someBytes(20, 2));
    await second.close();
    expect(await store.size(A)).toBe(30);
  });
});

describe('openCacheApi', () => {
  it('is undefined where it is closed', async () => {
    const closed = { open: () => Promise.reject(new DOMException('insecure', 'SecurityError')) };
    expect(await openCacheApi(closed as unknown as CacheStorage)).toBeUndefined();
  });
});
