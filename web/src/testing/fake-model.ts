/** A model over a fake engine, its host on the same thread. */

import { createCallEvents, createModel } from '../model.js';
import type { Model } from '../types.js';
import { createHost } from '../worker/host.js';
import { wasmInstance } from '../worker/wasm-instance.js';
import { type FakeEngines, loadRequest } from './fake-engine.js';
import { fakeGrammar } from './fake-grammar.js';
import { fakePackage, someBytes } from './fake-package.js';
import { fakeServer } from './fake-server.js';

/** Its name is `test`. */
export async function fakeModel(engines: FakeEngines): Promise<Model> {
  const server = fakeServer((await fakePackage({ s1: someBytes(9000, 1) })).files);
  const events = createCallEvents();
  const host = createHost({
    emit: (event) => 'call' in event && events.deliver(event),
    grammarModule: async () => fakeGrammar,
    engineModule: async () => wasmInstance(engines.module),
    describeAdapter: async () => ({ vendor: '', architecture: '', device: '', description: '', limits: {}, software: true }),
    network: server.network,
    onTrap: () => () => undefined,
  });
  const info = await host.load(0, loadRequest('https://example.org/test/', { cache: 'none' }));
  return createModel({ host, info, events, close() {} });
}
