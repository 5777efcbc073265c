/** From the model to its host. */

import { HaikuqError } from '../errors.js';
import { aborted } from '../failures.js';
import type { LoadOptions } from '../types.js';
import { type CallMessage, type HostMessage, receiveError } from './calls.js';
import { createHostHere } from './here.js';
import { importingWorker, isOwnScript, makeWorker, workerScript } from './make-worker.js';
import type { Host, HostEvent } from './protocol.js';

export interface Connection {
  host: Host;
  /** Ends the worker. Calls that are not answered yet reject with `aborted`. */
  close(): void;
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
  interface Waiting {
    resolve: (value: unknown) => void;
    reject: (error: HaikuqError) => void;
  }
  const waiting = new Map<number, Waiting>();
  let calls = 0;
  /** Whether the worker has ever said anything: its script runs. */
  let alive = false;
  let closed: HaikuqError | undefined;

  /** A worker that never began or was ended would leave its calls unanswered. */
  function rejectWaiting(error: HaikuqError): void {
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  }
  function take(id: number): Waiting | undefined {
    const call = waiting.get(id);
    waiting.delete(id);
    return call;
  }
  function caller<Method extends keyof Host>(method: Method): Host[Method] {
    const call = (...args: unknown[]) =>
      new Promise((resolve, reject) => {
        if (closed) return reject(closed);
        calls += 1;
        waiting.set(calls, { resolve, reject });
        worker.postMessage({ haikuqCall: [calls, method, args] } satisfies CallMessage);
      });
    return call as Host[Method];
  }
  worker.addEventListener('message', ({ data }: MessageEvent<HostMessage | null>) => {
    alive = true;
    if (typeof data !== 'object' || data === null) return;
    if ('haikuqEvent' in data) onEvent(data.haikuqEvent);
    else if ('haikuqAnswer' in data) take(data.haikuqAnswer[0])?.resolve(data.haikuqAnswer[1]);
    else if ('haikuqError' in data) take(data.haikuqError[0])?.reject(receiveError(data.haikuqError[1]));
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

  const host: Host = {
    load: caller('load'),
    write: caller('write'),
    cancel: caller('cancel'),
    countTokens: caller('countTokens'),
    tokenize: caller('tokenize'),
    detokenize: caller('detokenize'),
    score: caller('score'),
    continueGreedily: caller('continueGreedily'),
    memory: caller('memory'),
    profile: caller('profile'),
    loseDevice: caller('loseDevice'),
    dispose: caller('dispose'),
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
