/** Response formats of one model: compiled for its vocabulary, before anything is written. */

import type { Engine } from '../engine/engine.js';
import type { EngineConstraint, GrammarModule, Matcher, Vocabulary } from '../engine/grammar.js';
import { HaikuqError } from '../errors.js';
import { isTrap } from '../failures.js';

/** A format at the beginning of a text. */
export interface Constrained {
  constraint: EngineConstraint;
  free(): void;
}

export interface Formats {
  /** `count` of them; throws `invalid-argument` with what cannot be kept. */
  constrain(engine: Engine, format: string, count: number): Promise<Constrained[]>;
}

export function createFormats(load: () => Promise<GrammarModule>): Formats {
  /** Of the newest engine: another one has another tokenizer object, if not another tokenizer. */
  let known: { engine: Engine; vocabulary: Vocabulary } | undefined;

  async function vocabularyOf(engine: Engine): Promise<Vocabulary> {
    if (known?.engine === engine) return known.vocabulary;
    const { Vocabulary } = await load();
    known?.vocabulary.free();
    known = undefined;
    const { bytes, ends } = engine.tokenBytes();
    const { vocabSize, eosTokenIds } = engine.facts();
    const vocabulary = new Vocabulary(bytes, ends, vocabSize, Uint32Array.from(eosTokenIds), (text) => engine.encodeBare(text));
    known = { engine, vocabulary };
    return vocabulary;
  }

  /** After a trap, the module begins anew. */
  async function begin(): Promise<void> {
    known = undefined;
    (await load()).__wbg_reset_state?.();
  }

  return {
    async constrain(engine, format, count) {
      const made: Matcher[] = [];
      try {
        const vocabulary = await vocabularyOf(engine);
        for (let i = 0; i < count; i++) made.push(vocabulary.matcher(format));
      } catch (error) {
        if (error instanceof HaikuqError) throw error;
        if (isTrap(error)) await begin();
        else made.forEach((matcher) => matcher.free());
        throw new HaikuqError('invalid-argument', `responseFormat: ${words(error)}`, { field: 'responseFormat' }, { cause: error });
      }
      return made.map((matcher) => constrained(matcher, () => void begin()));
    },
  };
}

function constrained(matcher: Matcher, onTrap: () => void): Constrained {
  let broken = false;
  /** A trap in this module is none of the engine's. */
  function guarded<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      if (isTrap(error)) {
        broken = true;
        onTrap();
      }
      // The engine reads a text.
      throw words(error);
    }
  }
  return {
    constraint: {
      accept: (ids) => guarded(() => matcher.accept(ids)),
      get complete() {
        return matcher.complete;
      },
      allow: (count) => guarded(() => matcher.allow(count)),
    },
    free: () => void (broken || matcher.free()),
  };
}

const words = (error: unknown): string => (error instanceof Error ? error.message : String(error));
