/** Stands in for the module of response formats: it refuses `not`, and lets everything else pass. */

import type { GrammarModule, Matcher, Vocabulary } from '../engine/grammar.js';

/** What became of the matchers, in their order. */
export const matchers: { format: string; freed: boolean }[] = [];

class FakeVocabulary implements Vocabulary {
  matcher(format: string): Matcher {
    if (format.includes('"not"')) throw new Error('the JSON schema has "not" at #');
    if (format.includes('trap')) throw new WebAssembly.RuntimeError('unreachable');
    const made = { format, freed: false };
    matchers.push(made);
    return {
      accept: () => new Uint32Array(),
      complete: false,
      allow: (words) => new Uint32Array(words).fill(0xffffffff),
      free: () => void (made.freed = true),
    };
  }
  free(): void {}
}

export const fakeGrammar: GrammarModule = {
  default: async () => undefined,
  Vocabulary: FakeVocabulary as unknown as GrammarModule['Vocabulary'],
};
