/** From the model to its host. */

import { wrap } from 'comlink';
import { HaikuqError } from '../errors.js';
import { aborted } from '../failures.js';
import type { LoadOptions } from '../types.js';
import type { Host, HostEvent } from './protocol.js';
import { installErrorTransfer } from './transfer.js';

export interface Connection {
  host: Host;
  /** Ends the worker. Calls that are not answered yet reject with `aborted`. */
  close(): void;
}

/** How a worker sends events; its answers are comlink's. */
export interface EventMessage {
  haikuqEvent: HostEvent;
}

export type OnEvent = (event: HostEvent) => void;

export async function connect(worker: NonNullable<LoadOptions['worker']>, onEvent: OnEvent): Promise<Connection> {
  if (worker === false) {
    const { createHostHere } = await import('./here.js');
    return { host: createHostHere(onEvent), close() {} };
  }
  return connectWorker(worker === true ? makeWorker() : worker(), onEvent);
}

export function connectWorker(worker: Worker, onEvent: OnEvent): Connection {
  const waiting = new Set<(error: HaikuqError) => void>();
  /** Whether the worker has ever said anything: its script runs. */
  let alive = false;
  let closed: HaikuqError | undefined;

  function rejectWaiting(error: HaikuqError): void {
    for (const reject of waiting) reject(error);
    waiting.clear();
  }
  /** A worker that never began or was ended would leave its calls unanswered. */
  function answered<T>(call: () => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (closed) return reject(closed);
      waiting.add(reject);
      call()
        .then(resolve, reject)
        .finally(() => waiting.delete(reject));
    });
  }
  worker.addEventListener('message', ({ data }: MessageEvent<Partial<EventMessage> | null>) => {
    alive = true;
    if (data?.haikuqEvent) onEvent(data.haikuqEvent);
  });
  worker.addEventListener('error', (event) => {
    // Without words, the script could not be fetched or run: another origin, a content security policy, a 404.
    const why = event.message || 'its script could not be loaded';
    // Once it runs, the host answers every call; an error beside that is for the console.
    if (alive) return;
    closed ??= new HaikuqError('internal', `the worker failed: ${why}`);
    rejectWaiting(closed);
  });
  worker.addEventListener('messageerror', () => {
    rejectWaiting(new HaikuqError('internal', 'a message of the worker could not be read'));
  });

  installErrorTransfer();
  const remote = wrap<Host>(worker);
  const host: Host = {
    load: (...args) => answered(() => remote.load(...args)),
    write: (...args) => answered(() => remote.write(...args)),
    cancel: (...args) => answered(() => remote.cancel(...args)),
    countTokens: (...args) => answered(() => remote.countTokens(...args)),
    tokenize: (...args) => answered(() => remote.tokenize(...args)),
    detokenize: (...args) => answered(() => remote.detokenize(...args)),
    score: (...args) => answered(() => remote.score(...args)),
    continueGreedily: (...args) => answered(() => remote.continueGreedily(...args)),
    memory: () => answered(() => remote.memory()),
    profile: (...args) => answered(() => remote.profile(...args)),
    loseDevice: () => answered(() => remote.loseDevice()),
    dispose: () => answered(() => remote.dispose()),
  };
  return {
    host,
    close() {
      worker.terminate();
      closed ??= aborted('the call, by disposing of the model,');
      rejectWaiting(closed);
    },
  };
}

function makeWorker(): Worker {
  try {
    // In one expression, so that bundlers see it.
    return new Worker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'haikuq' });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new HaikuqError('internal', `the worker could not be made: ${why}`, {}, { cause: error });
  }
}
