/** Does what `haikuq validate --browser` asks for, until it says that it is done. */

import type { AdapterInfo, LoadProgress, Model } from 'haikuq';
import { failureOf } from '../../shared/advice.ts';
import type { Runtime } from '../../shared/runtime.ts';
import { isStale, type Server, type Work } from './protocol.ts';
import { rowQueue } from './row-queue.ts';

export interface WorkLoopEvents {
  onLoad: (progress: LoadProgress) => void;
  onModel: (model: Model) => void;
  /** Before each piece of work; `done` counts what is finished. */
  onWork: (work: Exclude<Work, { kind: 'done' }>, done: number) => void;
}

export interface Verdict {
  passed: boolean;
  summary: string;
}

/** The server takes no more in one request. Whole rows are sent: a vocabulary of a million is 4 MB. */
const MOST_BYTES_OF_ROWS = 16 * 1024 * 1024;

/**
 * Loads the package of the server's job and works. The model's errors are told to the server, which ends the validation, and
 * reject; so does a server that is gone.
 */
export async function workLoop(server: Server, runtime: Pick<Runtime, 'load'>, root: string, events: WorkLoopEvents): Promise<Verdict> {
  const job = await server.job();
  // From the server every time: the page validates what the server has, not what an earlier visit has stored.
  const options = { kvCache: job.kvCache, numerics: job.numerics, cache: 'none', onProgress: events.onLoad } as const;
  const model = await reporting(server, () => runtime.load(new URL(job.package, root), options));
  try {
    events.onModel(model);
    const { adapter, numerics } = model.info;
    await server.hello({ adapter: adapterName(adapter), userAgent: navigator.userAgent, package: job.package, numerics });
    for (let done = 0; ; ) {
      const work = await server.next();
      if (work === null) continue;
      if (work.kind === 'done') return { passed: work.passed, summary: work.summary };
      events.onWork(work, done);
      try {
        await doWork(model, server, work);
        done += 1;
      } catch (error) {
        if (!isStale(error)) throw error;
      }
    }
  } finally {
    await model.dispose();
  }
}

export function adapterName({ description, vendor, architecture, device }: AdapterInfo): string {
  return description || [vendor, architecture, device].filter((part) => part !== '').join(' ') || 'unnamed adapter';
}

async function doWork(model: Model, server: Server, work: Exclude<Work, { kind: 'done' }>): Promise<void> {
  if (work.kind === 'greedy') {
    const ids = await reporting(server, () => model.continueGreedily(Uint32Array.from(work.prompt), work.maxNew));
    await server.greedy(work.id, ids);
    return;
  }
  const { vocabSize } = model.info;
  const queue = rowQueue((first, logits) => server.rows(work.id, first, logits), {
    vocabSize,
    rowsAtOnce: Math.max(1, Math.floor(MOST_BYTES_OF_ROWS / (vocabSize * Float32Array.BYTES_PER_ELEMENT))),
  });
  await reporting(server, () => model.score(Uint32Array.from(work.ids), (first, logits) => queue.push(first, logits)));
  await queue.drained();
  await server.finish(work.id);
}

/** Does something with the model, and tells the server where it fails. */
async function reporting<T>(server: Server, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    const { code, message } = failureOf(error);
    // A server that is gone as well is no news: the first error counts.
    await server.error({ code, message }).catch(() => undefined);
    throw error;
  }
}
