/** Conversations, as they are kept and as a model reads them. Values never change; functions return new ones. */

import type { ErrorCode, FinishReason, GenerationResult, Message, Timings, Trimmed, Usage } from 'haikuq';

export interface UserTurn {
  role: 'user';
  id: string;
  text: string;
}

export interface AssistantTurn {
  role: 'assistant';
  id: string;
  text: string;
  /** The package that wrote it. */
  model: string;
  finish?: FinishReason;
  usage?: Usage;
  timings?: Timings;
  trimmed?: Trimmed;
  /** Times that the GPU device was lost and replaced meanwhile. */
  recoveries?: number;
  /** Why it is not there, or not all of it. */
  error?: { code: ErrorCode; message: string };
}

export type Turn = UserTurn | AssistantTurn;

export interface Conversation {
  id: string;
  title: string;
  /** Milliseconds since 1970. */
  updatedAt: number;
  turns: Turn[];
}

export type ConversationSummary = Omit<Conversation, 'turns'>;

const TITLE_LENGTH = 60;

export function newConversation(): Conversation {
  return { id: crypto.randomUUID(), title: '', updatedAt: Date.now(), turns: [] };
}

/** The first line of a text, cut at a word. */
export function titleOf(text: string): string {
  const line = text.trim().split('\n', 1)[0]?.trim() ?? '';
  if (line.length <= TITLE_LENGTH) return line;
  const cut = line.slice(0, TITLE_LENGTH);
  const space = cut.lastIndexOf(' ');
  return `${(space > TITLE_LENGTH / 2 ? cut.slice(0, space) : cut).trimEnd()}…`;
}

const firstQuestion = (turns: Turn[]): UserTurn | undefined => turns.find((turn) => turn.role === 'user');

function withTurns(conversation: Conversation, turns: Turn[]): Conversation {
  const first = firstQuestion(turns);
  // A copy's title says so, until the turn that it is called after is another one.
  const named = first === undefined || first.id === firstQuestion(conversation.turns)?.id;
  return { ...conversation, turns, title: named ? conversation.title : titleOf(first.text), updatedAt: Date.now() };
}

export function withUserTurn(conversation: Conversation, text: string): Conversation {
  return withTurns(conversation, [...conversation.turns, { role: 'user', id: crypto.randomUUID(), text }]);
}

export function withAnswer(conversation: Conversation, answer: AssistantTurn): Conversation {
  return withTurns(conversation, [...conversation.turns, answer]);
}

/** The user's turn says something else; what followed is gone. */
export function withEditedTurn(conversation: Conversation, id: string, text: string): Conversation {
  const at = conversation.turns.findIndex((turn) => turn.id === id && turn.role === 'user');
  if (at < 0) throw new RangeError(`the conversation has no user turn ${id}`);
  return withUserTurn({ ...conversation, turns: conversation.turns.slice(0, at) }, text);
}

/** Without the answer at its end, so that there can be another. */
export function withoutLastAnswer(conversation: Conversation): Conversation {
  const { turns } = conversation;
  return turns.at(-1)?.role === 'assistant' ? withTurns(conversation, turns.slice(0, -1)) : conversation;
}

/**
 * What the model reads. Answers that failed before their first word are left out, and turns of one role that follow each
 * other for that reason become one message: many chat templates refuse roles that do not alternate.
 */
export function messagesOf(conversation: Conversation, system: string): Message[] {
  const messages: Message[] = system.trim() === '' ? [] : [{ role: 'system', content: system }];
  for (const { role, text } of conversation.turns) {
    if (text === '') continue;
    const last = messages.at(-1);
    // An answer to an answer is a text that was continued: it goes on without a gap.
    if (last?.role === role) last.content += (role === 'user' ? '\n\n' : '') + text;
    else messages.push({ role, content: text });
  }
  return messages;
}

/** What a model without a chat template continues: all the text so far. */
export function documentOf(conversation: Conversation): string {
  return conversation.turns.map((turn) => turn.text).join('');
}

/** An answer from what the runtime reports. */
export function answerOf(result: GenerationResult, model: string): AssistantTurn {
  const { text, finish, usage, timings, trimmed, recoveries } = result;
  return {
    role: 'assistant',
    id: crypto.randomUUID(),
    text,
    model,
    finish,
    usage,
    timings,
    recoveries,
    ...(trimmed ? { trimmed } : {}),
  };
}
