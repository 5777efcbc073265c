/**
 * SHA-256 by the browser. Chromium computes it on the thread that asks, so workers share the work where there are any; they
 * run for as long as there is something to hash.
 */

import { limit } from './limit.js';

export type Hash = (bytes: Uint8Array<ArrayBuffer>) => Promise<{ sha256: Uint8Array; bytes: Uint8Array<ArrayBuffer> }>;

export interface Hasher {
  /** How many files it hashes at a time. */
  readonly atOnce: number;
  /** The same bytes come back with the digest, in the same memory, which moves to another thread meanwhile. */
  hash: Hash;
}

/** On the calling thread. */
export const hasherHere: Hasher = { atOnce: 1, hash: async (bytes) => ({ bytes, sha256: await sha256(bytes) }) };

/** The answer comes as a message of the same shape, with the digest. */
interface Job {
  memory: ArrayBuffer;
  begin: number;
  length: number;
}

const IDLE_MS = 1_000;
/** A worker that says nothing for so long runs another script. */
const START_MS = 5_000;

/** With up to `atOnce` workers that `make` makes; without any, on the calling thread. */
export function hasherOfWorkers(make: () => Worker, atOnce: number): Hasher {
  const slot = limit(atOnce);
  const idle: Worker[] = [];
  let made = 0;
  /** A worker could not be made, or its script does not run. */
  let failed = false;
  let ending: ReturnType<typeof setTimeout> | undefined;

  function give(worker: Worker): void {
    idle.push(worker);
    if (idle.length < made) return;
    ending = setTimeout(() => {
      for (const each of idle.splice(0)) each.terminate();
      made = 0;
    }, IDLE_MS);
  }
  function take(): Worker | undefined {
    clearTimeout(ending);
    const worker = idle.pop();
    if (worker || failed) return worker;
    try {
      const another = make();
      made += 1;
      return another;
    } catch {
      failed = true;
      return undefined;
    }
  }
  return {
    atOnce,
    hash: (bytes) =>
      slot(async () => {
        const worker = take();
        if (!worker) return hasherHere.hash(bytes);
        // Whether its script runs is known before it gets memory that it would take along.
        if (!(await isReady(worker))) {
          failed = true;
          made -= 1;
          worker.terminate();
          return hasherHere.hash(bytes);
        }
        const { memory, begin, length, digest } = await ask(worker, bytes);
        give(worker);
        return { bytes: new Uint8Array(memory, begin, length), sha256: digest };
      }),
  };
}

/** In a worker: hashes what is sent. */
export function serveHashing(scope: Pick<Worker, 'addEventListener' | 'postMessage'>): void {
  scope.addEventListener('message', ({ data }: MessageEvent<Job>) => {
    const bytes = new Uint8Array(data.memory, data.begin, data.length);
    void sha256(bytes).then((digest) => scope.postMessage({ ...data, digest }, [data.memory]));
  });
  scope.postMessage('ready');
}

const ready = new WeakMap<Worker, Promise<boolean>>();

function isReady(worker: Worker): Promise<boolean> {
  const known = ready.get(worker);
  if (known) return known;
  const answer = new Promise<boolean>((resolve) => {
    worker.addEventListener('message', () => resolve(true), { once: true });
    worker.addEventListener('error', () => resolve(false), { once: true });
    setTimeout(() => resolve(false), START_MS);
  });
  ready.set(worker, answer);
  return answer;
}

function ask(worker: Worker, { buffer: memory, byteOffset: begin, byteLength: length }: Uint8Array<ArrayBuffer>) {
  return new Promise<Job & { digest: Uint8Array }>((resolve) => {
    worker.addEventListener('message', ({ data }: MessageEvent<Job & { digest: Uint8Array }>) => resolve(data), { once: true });
    worker.postMessage({ memory, begin, length } satisfies Job, [memory]);
  });
}

async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
}
