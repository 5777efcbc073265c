/** The host on the calling thread, for `worker: false`. */

import { browserNetwork } from '../store/fetch.js';
import { describeAdapter } from './adapter.js';
import { loadEngineModule } from './engine-module.js';
import { createHost } from './host.js';
import type { Emit, Host } from './protocol.js';

export function createHostHere(emit: Emit): Host {
  return createHost({ emit, engineModule: loadEngineModule, describeAdapter, network: browserNetwork() });
}
