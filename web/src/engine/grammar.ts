/**
 * The boundary to the second WebAssembly module, `web/grammar` (crate `haikuq-web-grammar`): response formats. A page loads it when
 * a request has one.
 */

/** A format that follows one text. What its methods throw are texts. */
export interface EngineConstraint {
  /** Takes in the tokens that the text has got since the last call, none at its beginning; gives those that follow in any case. */
  accept(ids: Uint32Array): Uint32Array;
  /** Whether nothing may follow these. */
  readonly complete: boolean;
  /** The tokens that may come next, as bits in so many words: bit `i % 32` of word `i / 32` for the token `i`. */
  allow(words: number): Uint32Array;
}

/** As the module has it: it throws `Error`s. */
export interface Matcher extends EngineConstraint {
  free(): void;
}

/** A tokenizer as the parser sees it. */
export interface Vocabulary {
  /** Compiles a `ResponseFormat`, as JSON. */
  matcher(format: string): Matcher;
  free(): void;
}

export interface GrammarModule {
  /** Makes a new WebAssembly instance, after a trap. */
  __wbg_reset_state?(): void;
  /** Initializes WebAssembly; call once. */
  default(options: { module_or_path: URL }): Promise<unknown>;
  Vocabulary: new (
    /** Of all tokens, one after the other. */
    bytes: Uint8Array,
    /** Where each token's bytes end. */
    ends: Uint32Array,
    size: number,
    endTokens: Uint32Array,
    /** Ids of a text in the middle of a text. */
    encode: (text: string) => Uint32Array,
  ) => Vocabulary;
}
