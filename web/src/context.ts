/**
 * What of a conversation goes into the context. The policy: system messages stay, and so does the newest turn; the oldest
 * turns drop out: four at a time as long as eight stay, else as few as it takes. So several turns in a row begin with the same
 * tokens, and the keys and values cached for them serve again. A turn is a user's message with all that follows until the next one, so that no
 * answer is left without its question and chat templates see roles in the order that they expect.
 */

import { HaikuqError } from './errors.js';
import type { Message, Trimmed } from './types.js';

export interface ContextOptions {
  /** Tokens that prompt and answer may have together. */
  contextSize: number;
  overflow: 'trim' | 'refuse';
  /** Tokens kept free for the answer. */
  reserve: number | undefined;
  /** Stands in for `reserve` when trimming. */
  maxTokens: number | undefined;
}

/** Turns that drop out together. */
const STEP = 4;

export interface FittedPrompt {
  prompt: Uint32Array;
  /** Absent where nothing was dropped. */
  trimmed?: Trimmed;
}

/**
 * The prompt for as much of the conversation as fits. `encode` gives the tokens of messages. Throws `context-overflow`
 * with the numbers of tokens where even the least does not fit, or where trimming is refused.
 */
export function fitContext(messages: Message[], encode: (messages: Message[]) => Uint32Array, options: ContextOptions): FittedPrompt {
  const { contextSize, overflow } = options;
  const whole = encode(messages);
  const reserve = options.reserve ?? (overflow === 'trim' ? defaultReserve(options) : 0);
  if (whole.length + reserve <= contextSize) return { prompt: whole };
  if (overflow === 'refuse') throw overflowError(whole.length + reserve, contextSize, 'the conversation does not fit');

  const turns = splitTurns(messages);
  const without = (dropped: number) => {
    const gone = new Set(turns.slice(0, dropped).flat());
    return encode(messages.filter((_, i) => !gone.has(i)));
  };
  // The fewest turns, by bisection: encoding a long conversation once for each of them would take seconds.
  let [fits, tooFew] = [Math.max(0, turns.length - 1), 0];
  let prompt = fits > 0 ? without(fits) : whole;
  if (prompt.length > contextSize) throw overflowError(prompt.length, contextSize, 'the newest message alone does not fit');
  while (fits - tooFew > 1) {
    const middle = (fits + tooFew) >> 1;
    const candidate = without(middle);
    if (candidate.length + reserve <= contextSize) [fits, prompt] = [middle, candidate];
    else tooFew = middle;
  }
  const inSteps = Math.ceil(fits / STEP) * STEP;
  if (fits < inSteps && turns.length - inSteps >= 2 * STEP) [fits, prompt] = [inSteps, without(inSteps)];
  // With one turn alone there is nothing to drop: the answer gets what room there is.
  if (fits === 0) return { prompt };
  const droppedMessages = turns.slice(0, fits).flat();
  return { prompt, trimmed: { droppedMessages, promptTokensBefore: whole.length, promptTokensAfter: prompt.length } };
}

/** Half the context at most: callers give a generous `maxTokens` and do not mean to lose the conversation by it. */
function defaultReserve({ contextSize, maxTokens }: ContextOptions): number {
  return maxTokens === undefined ? Math.floor(contextSize / 4) : Math.min(maxTokens, Math.floor(contextSize / 2));
}

/** Indices of the messages of each turn, system messages left out. What comes before the first user's message is a turn. */
function splitTurns(messages: Message[]): number[][] {
  const turns: number[][] = [];
  messages.forEach(({ role }, i) => {
    // OpenAI's newer models call it `developer`.
    if (role === 'system' || role === 'developer') return;
    const turn = turns.at(-1);
    if (role === 'user' || !turn) turns.push([i]);
    else turn.push(i);
  });
  return turns;
}

/** `what` does not fit: both numbers in tokens. */
export function overflowError(needed: number, available: number, what: string): HaikuqError {
  return new HaikuqError('context-overflow', `${what}: ${needed} tokens are needed, the context has ${available}`, { needed, available });
}
