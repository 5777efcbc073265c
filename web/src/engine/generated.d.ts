/**
 * Stands in for the module that the WebAssembly build makes (`src/engine/generated`, not in the repository), so that
 * types check without a build. Its shape is `EngineModule`.
 */
declare module '*/generated/haikuq_web.js';
/** The same for `GrammarModule`. */
declare module '*/generated/haikuq_web_grammar.js';
