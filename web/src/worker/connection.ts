/** From the model to its host. */

import { wrap } from 'comlink';
import { HaikuqError } from '../errors.js';
import { aborted } from '../failures.js';
import type { LoadOptions } from '../types.js';
import { createHostHere } from './here.js';
import { importingWorker, isOwnScript, makeWorker, workerScript } from './make-worker.js';
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
  // Service workers have none.
  if (worker === false || (worker === true && !globalThis.Worker)) return connectHere(onEvent);
  if (worker !== true) return connectWorker(worker(), onEvent);
  const script = workerScript();
  if (isOwnScript(script)) return connectWorker(makeWorker(script), onEvent);
  let connection: Connection | undefined;
  try {
    const { worker: made, begun } = importingWorker(script);
    connection = connectWorker(made, onEvent);
    await begun;
    return connection;
  } catch (error) {
    connection?.close();
    const why = error instanceof Error ? error.message : String(error);
    console.warn(`haikuq: no worker with the script of another origin (${script.href}: ${why}); all work is done on this thread`);
    return connectHere(onEvent);
  }
}

/** Without a dynamic import, which service workers do not have. */
function connectHere(onEvent: OnEvent): Connection {
  return { host: createHostHere(onEvent), close() {} };
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
