/** What the page and `haikuq validate --browser` say to each other, over HTTP on the address that served the page. */

import { HaikuqError } from 'haikuq';

/** What to load. */
export interface Job {
  /** Relative to the server's root. */
  package: string;
  kvCache: 'auto' | 'f16' | 'f32';
  numerics: 'auto' | 'exact' | 'fast';
}

/** A window of tokens to score, a prompt to continue, or the end. */
export type Work =
  | { kind: 'score'; id: number; ids: number[] }
  | { kind: 'greedy'; id: number; prompt: number[]; maxNew: number }
  | { kind: 'done'; passed: boolean; summary: string };

export interface Hello {
  /** In words, for the report. */
  adapter: string;
  userAgent: string;
  /** As in the job. */
  package: string;
  /** How it computes. */
  numerics: 'exact' | 'fast';
}

export interface Failed {
  code: string;
  message: string;
}

export interface Server {
  job(): Promise<Job>;
  hello(hello: Hello): Promise<void>;
  /** The next piece of work, or `null` where there is none yet; the server answers when there is one, or after a while. */
  next(): Promise<Work | null>;
  /** Logits `[rows × vocabSize]` after tokens `first…` of work `id`; at most 32 MiB. */
  rows(id: number, first: number, logits: Float32Array<ArrayBuffer>): Promise<void>;
  finish(id: number): Promise<void>;
  greedy(id: number, ids: Uint32Array): Promise<void>;
  /** Ends the validation. */
  error(failed: Failed): Promise<void>;
}

/** Whether the server refused an answer because its work is not at hand any more; there may be other work. */
export const isStale = (error: unknown): boolean =>
  error instanceof HaikuqError && error.code === 'network' && error.details.status === 409;

/** The server at `origin`. All methods reject with `network` where it is gone or refuses. */
export function connect(origin: string, token: string): Server {
  async function request(path: string, init: RequestInit = {}): Promise<Response> {
    const file = `/work/${path.split('?', 1)[0]}`;
    let response: Response;
    try {
      const headers = { ...init.headers, 'x-haikuq-token': token };
      response = await fetch(new URL(`/work/${path}`, origin), { ...init, headers, cache: 'no-store' });
    } catch (error) {
      throw new HaikuqError('network', `${file}: haikuq validate does not answer`, { file }, { cause: error });
    }
    if (!response.ok) {
      const words = (await response.text().catch(() => '')).trim();
      throw new HaikuqError('network', `${file}: status ${response.status}${words && `: ${words}`}`, { file, status: response.status });
    }
    return response;
  }

  async function post(path: string, json?: unknown): Promise<void> {
    const body = json === undefined ? {} : { body: JSON.stringify(json), headers: { 'content-type': 'application/json' } };
    await request(path, { method: 'POST', ...body });
  }

  return {
    job: async () => (await (await request('job')).json()) as Job,
    hello: (hello) => post('hello', hello),
    async next() {
      const response = await request('next');
      return response.status === 204 ? null : ((await response.json()) as Work);
    },
    async rows(id, first, logits) {
      // The protocol's numbers are little-endian, as are those of every machine that has WebGPU.
      const headers = { 'content-type': 'application/octet-stream' };
      await request(`rows?id=${id}&first=${first}`, { method: 'POST', body: logits, headers });
    },
    finish: (id) => post(`finish?id=${id}`),
    greedy: (id, ids) => post(`greedy?id=${id}`, { ids: Array.from(ids) }),
    error: (failed) => post('error', failed),
  };
}
