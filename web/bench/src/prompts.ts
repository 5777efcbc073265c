/** Prompts of a given number of tokens, different each time: a repeated one would come from the cache. */

import type { Model } from 'haikuq';

/** A number in [0, 1): mulberry32, so that a seed gives the same prompts on every device. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

// Short and common: a token each in most vocabularies, hence few steps to the right length.
const vocabulary = (
  'time year people way day man thing woman life child world school state family student group country problem hand part place ' +
  'case week company system program question work number night point home water room mother area money story fact month lot ' +
  'right study book eye job word business issue side kind head house service friend father power hour game line end member ' +
  'law car city name team minute idea kid body back parent face level office door health person art war history party result ' +
  'change morning reason research girl guy moment air teacher force education foot boy age policy music market sense bird tree ' +
  'river stone paper light summer winter garden table window road song letter animal island mountain forest ocean bridge'
).split(' ');

const FILLER = ' a';

/**
 * Makes prompts, no two of which begin with the same word until all words have been first. The text has exactly `tokens`
 * tokens where the tokenizer allows, or else as many as it takes without exceeding them; the usage of a run says.
 */
export function promptMaker(model: Pick<Model, 'countTokens'>, seed: number): (tokens: number) => Promise<string> {
  const random = seededRandom(seed);
  const pick = () => vocabulary[Math.floor(random() * vocabulary.length)]!;
  const firstWords = vocabulary.map((word) => ({ word, key: random() })).sort((a, b) => a.key - b.key);
  let made = 0;

  return async (tokens) => {
    const words = [firstWords[made++ % firstWords.length]!.word];
    while (words.length < tokens) words.push(pick());
    const text = (count: number) => words.slice(0, count).join(' ');

    // The most words that fit.
    let fitting = 1;
    let tooMany = words.length + 1;
    while (tooMany - fitting > 1) {
      const middle = (fitting + tooMany) >> 1;
      if ((await model.countTokens(text(middle))) <= tokens) fitting = middle;
      else tooMany = middle;
    }

    let prompt = text(fitting);
    for (let missing = tokens - (await model.countTokens(prompt)); missing > 0; ) {
      const filled = prompt + FILLER.repeat(missing);
      const left = tokens - (await model.countTokens(filled));
      // A vocabulary in which the filler is several tokens, or merges with itself.
      if (left < 0 || left === missing) break;
      prompt = filled;
      missing = left;
    }
    return prompt;
  };
}
