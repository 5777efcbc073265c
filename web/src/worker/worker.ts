/**
 * The worker's entry: a host for the model on the page's side. While a package loads it starts the same script some more
 * times, by another name, to hash shards.
 */

import { browserNetwork } from '../store/fetch.js';
import { hasherOfWorkers, serveHashing } from '../store/hash.js';
import { describeAdapter } from './adapter.js';
import { type CallPort, serveCalls } from './calls.js';
import { loadEngineModule } from './engine-module.js';
import { loadGrammarModule } from './grammar-module.js';
import { createHost } from './host.js';
import type { HostEvent } from './protocol.js';
import { watchTraps } from './traps.js';

const HASHER = 'haikuq-hash';

const scope = globalThis as unknown as CallPort & { name: string };

function emit(event: HostEvent, transfer: Transferable[] = []): void {
  scope.postMessage({ haikuqEvent: event }, transfer);
}

function serveModel(): void {
  // Half of the processors: the page, this worker and the browser's other processes want theirs.
  const atOnce = Math.min(3, Math.max(1, navigator.hardwareConcurrency >> 1));
  const hasher = hasherOfWorkers(() => new Worker(location.href, { type: 'module', name: HASHER }), atOnce);
  const onTrap = watchTraps(globalThis);
  serveCalls(
    createHost({
      emit,
      engineModule: loadEngineModule,
      grammarModule: loadGrammarModule,
      describeAdapter,
      network: browserNetwork(),
      onTrap,
      hasher,
    }),
    scope,
  );
}

if (scope.name === HASHER) serveHashing(scope as unknown as Pick<Worker, 'addEventListener' | 'postMessage'>);
// Not where a server only imports it.
else if ('WorkerGlobalScope' in globalThis) serveModel();
