/** The open conversation: what is asked, written, changed and kept. React reads it with `useSession`. */

import type { Model } from 'haikuq';
import {
  newConversation,
  withAnswer,
  withEditedTurn,
  withoutLastAnswer,
  withUserTurn,
  type AssistantTurn,
  type Conversation,
} from '../data/conversation.ts';
import type { ConversationStore } from '../data/database.ts';
import { reconcile } from '../data/reconcile.ts';
import type { Settings } from '../data/settings.ts';
import { writeAnswer } from './answer.ts';

export interface SessionState {
  conversation: Conversation;
  /** The answer so far, while one is being written. */
  writing: string | null;
  /** The answer that was finished last, for those who listen rather than look. */
  finished: AssistantTurn | null;
  /** Why conversations are not kept, where they are not. */
  storeError: string | null;
}

export interface Session {
  getState(): SessionState;
  subscribe(listener: () => void): () => void;
  /** Adds the user's text (none to let a model without a chat template go on) and has it answered. */
  send(text: string): void;
  /** Replaces a turn of the user, drops what followed, and has it answered. */
  edit(turnId: string, text: string): void;
  /** Answers the last turn of the user anew. */
  regenerate(): void;
  /** Ends the answer that is being written; its text so far stays. */
  stop(): void;
  startNew(): void;
  open(id: string): Promise<void>;
  /** Returns what was kept of it, for `restore`. */
  remove(id: string): Promise<Conversation | undefined>;
  /** Keeps a conversation that was removed again, and shows it if `toFront`. */
  restore(conversation: Conversation, toFront: boolean): Promise<void>;
  /** Ends what is being written and listens no more. */
  close(): void;
}

export interface SessionOptions {
  model: Model;
  store: ConversationStore;
  /** Read whenever an answer begins. */
  settings: () => Settings;
  /** To go on with; a new one where absent. */
  conversation?: Conversation | undefined;
  /** Paces the growing text. */
  schedule?: (update: () => void) => void;
}

/** More often than this nobody reads. Not animation frames: they stop while the GPU is busy, or the tab is hidden. */
const UPDATE_MS = 33;

interface Run {
  controller: AbortController;
  conversationId: string;
  /** The conversation was removed: the answer is not to bring it back. */
  discarded: boolean;
}

export function createSession({
  model,
  store,
  settings,
  conversation = newConversation(),
  schedule = (update) => void setTimeout(update, UPDATE_MS),
}: SessionOptions): Session {
  let state: SessionState = { conversation, writing: null, finished: null, storeError: null };
  /** The one whose answer is shown. */
  let run: Run | null = null;
  /** All whose answers are still to be kept: one that made way for another conversation takes a while to end. */
  const live = new Set<Run>();
  const listeners = new Set<() => void>();

  function update(change: Partial<SessionState>): void {
    state = { ...state, ...change };
    listeners.forEach((listener) => listener());
  }

  /**
   * Keeps `mine`, which a run made of `base`, along with what other tabs wrote meanwhile. Returns what is kept now, or
   * `null` where nothing is: the conversation was removed (`begun`: it had been kept before), or the store failed.
   */
  async function keep(own: Run, mine: Conversation, base: Conversation, begun: boolean): Promise<Conversation | null> {
    let kept: Conversation | null;
    try {
      kept = await store.update(mine.id, (stored) => {
        if (own.discarded || (begun && !stored)) return null;
        return stored ? reconcile(mine, base, stored) : mine;
      });
    } catch (error) {
      update({ storeError: error instanceof Error ? error.message : String(error) });
      return null;
    }
    if (state.storeError !== null) update({ storeError: null });
    if (kept) {
      own.conversationId = kept.id;
      const inFront = state.conversation === mine || (run === null && state.conversation.id === kept.id);
      if (inFront && state.conversation !== kept) update({ conversation: kept });
    }
    return kept;
  }

  /** Has the last turn of `asked` answered. */
  async function answer(asked: Conversation): Promise<void> {
    const before = state.conversation;
    const own: Run = { controller: new AbortController(), conversationId: asked.id, discarded: false };
    run = own;
    live.add(own);
    update({ conversation: asked, writing: '', finished: null });
    const keepingQuestion = keep(own, asked, before, false);

    let text = '';
    let scheduled = false;
    const turn = await writeAnswer(model, asked, settings(), own.controller.signal, (written) => {
      text = written;
      if (scheduled) return;
      scheduled = true;
      schedule(() => {
        scheduled = false;
        if (run === own) update({ writing: text });
      });
    });

    const question = await keepingQuestion;
    const answered = withAnswer(question ?? asked, turn);
    if (run === own) {
      run = null;
      update({ conversation: answered, writing: null, finished: turn });
    }
    await keep(own, answered, question ?? before, question !== null);
    live.delete(own);
  }

  /** Another conversation comes to the front; the answer to this one ends and is kept with it. */
  function show(next: Conversation): void {
    run?.controller.abort();
    run = null;
    update({ conversation: next, writing: null, finished: null });
  }

  const unsubscribe = store.onChange((id, here) => {
    // Another tab wrote to the conversation that is open here: follow it, or else the next turn here would undo that.
    if (here || id !== state.conversation.id || run !== null) return;
    void store.get(id).then((changed) => {
      if (changed && changed.id === state.conversation.id && run === null) update({ conversation: changed });
    });
  });

  return {
    getState: () => state,
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    send(text) {
      if (run === null) void answer(text === '' ? state.conversation : withUserTurn(state.conversation, text));
    },
    edit(turnId, text) {
      if (run === null) void answer(withEditedTurn(state.conversation, turnId, text));
    },
    regenerate() {
      if (run === null) void answer(withoutLastAnswer(state.conversation));
    },
    stop() {
      run?.controller.abort();
    },
    startNew() {
      show(newConversation());
    },
    async open(id) {
      if (id === state.conversation.id) return;
      const found = await store.get(id);
      if (found) show(found);
    },
    async remove(id) {
      for (const one of live) if (one.conversationId === id) one.discarded = true;
      if (state.conversation.id === id) show(newConversation());
      const removed = await store.get(id);
      await store.remove(id);
      return removed;
    },
    async restore(conversation, toFront) {
      // Another tab may have written it anew meanwhile.
      const kept = await store.update(conversation.id, (stored) => stored ?? conversation);
      if (kept && toFront) show(kept);
    },
    close() {
      unsubscribe();
      run?.controller.abort();
      run = null;
    },
  };
}
