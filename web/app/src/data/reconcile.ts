/** One conversation that two tabs went on with. */

import type { Conversation, Turn } from './conversation.ts';

/**
 * What to keep of `mine`, which came of `base`, where `stored` is kept already: nothing that another tab wrote is lost.
 * If both only went on from `base` it is one conversation with the turns of both; if one of them changed what was before,
 * `mine` becomes a conversation of its own.
 */
export function reconcile(mine: Conversation, base: Conversation, stored: Conversation): Conversation {
  const known = new Set([...base.turns, ...mine.turns].map((turn) => turn.id));
  // By turns, not by time: clocks may be set back, and an older state has nothing to lose.
  if (stored.turns.every((turn) => known.has(turn.id))) return mine;
  if (!goesOn(stored, base) || !goesOn(mine, base)) return copyOf(mine);
  const added = mine.turns.slice(base.turns.length);
  return { ...stored, turns: insert(stored.turns, placeOf(added, base, stored), added), updatedAt: Date.now() };
}

/** Whether the turns of `later` begin with those of `base`. */
function goesOn(later: Conversation, base: Conversation): boolean {
  return base.turns.every((turn, index) => later.turns[index]?.id === turn.id);
}

/** An answer belongs behind its question, for whoever reads it, the model too; everything else comes last. */
function placeOf(added: Turn[], base: Conversation, stored: Conversation): number {
  const answers = added[0]?.role === 'assistant' && base.turns.at(-1)?.role === 'user';
  return answers ? base.turns.length : stored.turns.length;
}

const insert = (turns: Turn[], at: number, added: Turn[]): Turn[] => [...turns.slice(0, at), ...added, ...turns.slice(at)];

const copyOf = (conversation: Conversation): Conversation => ({
  ...conversation,
  id: crypto.randomUUID(),
  title: `${conversation.title} (copy)`,
});
