/** The host on the calling thread, for `worker: false`. */

import { browserNetwork } from '../store/fetch.js';
import { describeAdapter } from './adapter.js';
import { loadEngineModule } from './engine-module.js';
import { loadGrammarModule } from './grammar-module.js';
import { createHost } from './host.js';
import type { Emit, Host } from './protocol.js';
import { watchTraps } from './traps.js';

export function createHostHere(emit: Emit): Host {
  // A page may run other WebAssembly. The stack names the module in most browsers, and then ours has to be the one.
  const onTrap = watchTraps(globalThis, ({ stack = '' }) => stack.includes('haikuq_web') || !stack.includes('.wasm'));
  return createHost({
    emit,
    engineModule: loadEngineModule,
    grammarModule: loadGrammarModule,
    describeAdapter,
    network: browserNetwork(),
    onTrap,
  });
}
