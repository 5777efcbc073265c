import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { hex, sha256, someBytes } from '../testing/fake-package.js';
import { hasherOfWorkers, serveHashing } from './hash.js';

type Listener = (event: MessageEvent) => void;

/** A worker that runs `script` with its side of the channel. Messages move what they transfer. */
class FakeWorker {
  static made: FakeWorker[] = [];
  ended = false;
  #listeners = { message: [] as { listener: Listener; once: boolean }[], error: [] as { listener: Listener; once: boolean }[] };
  #inside: Listener[] = [];

  constructor(script: (scope: Pick<Worker, 'addEventListener' | 'postMessage'>) => void) {
    FakeWorker.made.push(this);
    const scope = {
      addEventListener: (_: string, listener: Listener) => void this.#inside.push(listener),
      postMessage: (data: unknown, transfer: Transferable[] = []) => this.#tell('message', structuredClone(data, { transfer })),
    };
    queueMicrotask(() => {
      try {
        script(scope as never);
      } catch {
        this.#tell('error', undefined);
      }
    });
  }
  addEventListener(type: 'message' | 'error', listener: Listener, { once = false } = {}): void {
    this.#listeners[type].push({ listener, once });
  }
  postMessage(data: unknown, transfer: Transferable[]): void {
    const sent = structuredClone(data, { transfer });
    queueMicrotask(() => this.#inside.forEach((listener) => listener({ data: sent } as MessageEvent)));
  }
  terminate(): void {
    this.ended = true;
  }
  #tell(type: 'message' | 'error', data: unknown): void {
    const heard = this.#listeners[type];
    this.#listeners[type] = heard.filter(({ once }) => !once);
    for (const { listener } of heard) listener({ data } as MessageEvent);
  }
}

const worker = (script = serveHashing) => new FakeWorker(script) as unknown as Worker;
const contents = [0, 1, 2, 3, 4].map((seed) => someBytes(1000 + seed, seed));

beforeEach(() => {
  FakeWorker.made = [];
  vi.useFakeTimers();
});
afterEach(() => vi.useRealTimers());

describe('hasherOfWorkers', () => {
  it('gives back the same bytes with their hash, from as many workers as it may have', async () => {
    const { hash } = hasherOfWorkers(worker, 2);
    const results = await Promise.all(contents.map((bytes) => hash(bytes.slice())));
    for (const [i, { bytes, sha256: digest }] of results.entries()) {
      expect(bytes).toEqual(contents[i]);
      expect(hex(digest)).toBe(await sha256(contents[i] as Uint8Array<ArrayBuffer>));
    }
    expect(FakeWorker.made).toHaveLength(2);
  });

  it('moves memory instead of copying it, a part of it too', async () => {
    const memory = new Uint8Array(5000);
    memory.set(contents[0] as Uint8Array, 100);
    const { bytes } = await hasherOfWorkers(worker, 1).hash(memory.subarray(100, 1100));
    expect(memory.byteLength).toBe(0);
    expect(bytes).toEqual(contents[0]);
    expect(bytes.buffer.byteLength).toBe(5000);
  });

  it('ends its workers when there is nothing to hash any more, and makes others then', async () => {
    const { hash } = hasherOfWorkers(worker, 2);
    await hash(someBytes(10, 1));
    vi.advanceTimersByTime(900);
    await hash(someBytes(10, 1));
    expect(FakeWorker.made.map(({ ended }) => ended)).toEqual([false]);
    vi.advanceTimersByTime(1100);
    expect(FakeWorker.made.map(({ ended }) => ended)).toEqual([true]);
    await hash(someBytes(10, 1));
    expect(FakeWorker.made.map(({ ended }) => ended)).toEqual([true, false]);
  });

  it.each([
    [
      'cannot be made',
      () => {
        throw new DOMException('refused', 'SecurityError');
      },
      0,
    ],
    [
      'do not run',
      () =>
        worker(() => {
          throw new Error('404');
        }),
      1,
    ],
    ['run something else', () => worker(() => undefined), 1],
  ])('hashes by itself where workers %s, and asks for no more', async (_, make: () => Worker, made) => {
    const { hash } = hasherOfWorkers(make, 2);
    for (let i = 0; i < 2; i++) {
      const hashing = hash((contents[i] as Uint8Array<ArrayBuffer>).slice());
      await vi.advanceTimersByTimeAsync(6_000);
      const { bytes, sha256: digest } = await hashing;
      expect(bytes).toEqual(contents[i]);
      expect(hex(digest)).toBe(await sha256(contents[i] as Uint8Array<ArrayBuffer>));
    }
    expect(FakeWorker.made).toHaveLength(made);
    expect(FakeWorker.made.every(({ ended }) => ended)).toBe(true);
  });
});
