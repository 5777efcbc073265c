/** The WebAssembly module of response formats, fetched when the first request has one. */

// A static import, as in engine-module.ts: this is the small part.
import * as generated from '../engine/generated/haikuq_web_grammar.js';
import type { GrammarModule } from '../engine/grammar.js';
import { HaikuqError } from '../errors.js';

const FILE = 'haikuq_web_grammar_bg.wasm';
const grammarModule = generated as unknown as GrammarModule;
let initialized: Promise<GrammarModule> | undefined;

/** The module that all models of this thread share. */
export function loadGrammarModule(): Promise<GrammarModule> {
  initialized ??= initialize();
  return initialized;
}

async function initialize(): Promise<GrammarModule> {
  try {
    await grammarModule.default({ module_or_path: new URL('../engine/generated/haikuq_web_grammar_bg.wasm', import.meta.url) });
    return grammarModule;
  } catch (error) {
    // It may have been the network: the next request tries again.
    initialized = undefined;
    const code = error instanceof TypeError ? 'network' : 'internal';
    const message = `${FILE} could not be loaded: ${error instanceof Error ? error.message : String(error)}`;
    throw new HaikuqError(code, message, { file: FILE }, { cause: error });
  }
}
