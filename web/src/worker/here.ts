/** The host on the calling thread, for `worker: false`. */

import { browserNetwork } from '../store/fetch.js';
import { describeAdapter } from './adapter.js';
import { loadEngineModule } from './engine-module.js';
import { createHost } from './host.js';
import type { Emit, Host } from './protocol.js';
import { watchTraps } from './traps.js';

export function createHostHere(emit: Emit): Host {
  // A page may run other WebAssembly; the stack names the module.
  const onTrap = watchTraps(globalThis, ({ stack }) => stack?.includes('haikuq_web') ?? false);
  return createHost({ emit, engineModule: loadEngineModule, describeAdapter, network: browserNetwork(), onTrap });
}
