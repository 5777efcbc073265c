/** The worker's entry: a host for the model on the page's side. */

import { expose } from 'comlink';
import { browserNetwork } from '../store/fetch.js';
import { describeAdapter } from './adapter.js';
import { loadEngineModule } from './engine-module.js';
import { createHost } from './host.js';
import type { EventMessage } from './connection.js';
import type { HostEvent } from './protocol.js';
import { installErrorTransfer } from './transfer.js';
import { watchTraps } from './traps.js';

const scope = globalThis as unknown as { postMessage(message: EventMessage, transfer: Transferable[]): void };

// Events go beside comlink on the same port: they arrive in order, before the answer of the call that they belong to.
function emit(event: HostEvent, transfer: Transferable[] = []): void {
  scope.postMessage({ haikuqEvent: event }, transfer);
}

installErrorTransfer();
const onTrap = watchTraps(globalThis);
expose(createHost({ emit, engineModule: loadEngineModule, describeAdapter, network: browserNetwork(), onTrap }));
