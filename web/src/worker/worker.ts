/**
 * The worker's entry: a host for the model on the page's side. While a package loads it starts the same script some more
 * times, by another name, to hash shards.
 */

import { expose } from 'comlink';
import { browserNetwork } from '../store/fetch.js';
import { hasherOfWorkers, serveHashing } from '../store/hash.js';
import { describeAdapter } from './adapter.js';
import { loadEngineModule } from './engine-module.js';
import { createHost } from './host.js';
import type { EventMessage } from './connection.js';
import type { HostEvent } from './protocol.js';
import { installErrorTransfer } from './transfer.js';
import { watchTraps } from './traps.js';

const HASHER = 'haikuq-hash';

const scope = globalThis as unknown as Pick<Worker, 'addEventListener'> & {
  name: string;
  postMessage(message: EventMessage | unknown, transfer?: Transferable[]): void;
};

// Events go beside comlink on the same port: they arrive in order, before the answer of the call that they belong to.
function emit(event: HostEvent, transfer: Transferable[] = []): void {
  scope.postMessage({ haikuqEvent: event }, transfer);
}

function serveModel(): void {
  installErrorTransfer();
  // Half of the processors: the page, this worker and the browser's other processes want theirs.
  const atOnce = Math.min(3, Math.max(1, navigator.hardwareConcurrency >> 1));
  const hasher = hasherOfWorkers(() => new Worker(location.href, { type: 'module', name: HASHER }), atOnce);
  const onTrap = watchTraps(globalThis);
  expose(createHost({ emit, engineModule: loadEngineModule, describeAdapter, network: browserNetwork(), onTrap, hasher }));
}

if (scope.name === HASHER) serveHashing(scope as Pick<Worker, 'addEventListener' | 'postMessage'>);
else serveModel();
