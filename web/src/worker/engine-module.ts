/** The WebAssembly build, initialized once for each thread. */

import type { EngineModule } from '../engine/engine.js';
// A static import: bundlers put a worker into one file only where it has no dynamic ones.
import * as generated from '../engine/generated/haikuq_web.js';
import { HaikuqError } from '../errors.js';
import { type WasmInstance, wasmInstance } from './wasm-instance.js';

const engineModule = generated as unknown as EngineModule;
let initialized: Promise<WasmInstance> | undefined;

/** The instance that all models of this thread share. */
export function loadEngineModule(): Promise<WasmInstance> {
  initialized ??= initialize();
  return initialized;
}

async function initialize(): Promise<WasmInstance> {
  try {
    await engineModule.default({ module_or_path: new URL('../engine/generated/haikuq_web_bg.wasm', import.meta.url) });
    return wasmInstance(engineModule);
  } catch (error) {
    // It may have been the network: the next load tries again.
    initialized = undefined;
    // A network error of `fetch` is a TypeError; a module that cannot be compiled (or may not, by the page's policy) gives another error.
    const code = error instanceof TypeError ? 'network' : 'internal';
    const message = `haikuq_web_bg.wasm could not be loaded: ${error instanceof Error ? error.message : String(error)}`;
    throw new HaikuqError(code, message, { file: 'haikuq_web_bg.wasm' }, { cause: error });
  }
}
