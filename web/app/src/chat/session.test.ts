import { HaikuqError, type Model } from 'haikuq';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import type { Conversation } from '../data/conversation.ts';
import type { ConversationStore } from '../data/database.ts';
import { createFakeModel } from '../../../shared/dev/fake-model.ts';
import { createSession, type Session, type SessionOptions } from './session.ts';

/** Conversations in memory, with a way to play another tab. */
function memoryStore() {
  const kept = new Map<string, Conversation>();
  /** Ids of the conversations that were written here, in order. */
  const writes: string[] = [];
  const listeners = new Set<(id: string, here: boolean) => void>();
  const changed = (id: string, here: boolean) => listeners.forEach((listener) => listener(id, here));
  const store: ConversationStore = {
    list: async () => [...kept.values()],
    get: async (id) => kept.get(id),
    update: async (id, change) => {
      const written = change(kept.get(id));
      if (written) {
        kept.set(written.id, written);
        writes.push(written.id);
        changed(written.id, true);
      }
      return written;
    },
    remove: async (id) => {
      kept.delete(id);
      changed(id, true);
    },
    onChange: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
  const writeElsewhere = (conversation: Conversation) => {
    kept.set(conversation.id, conversation);
    changed(conversation.id, false);
  };
  const removeElsewhere = (id: string) => {
    kept.delete(id);
    changed(id, false);
  };
  return { store, kept, writes, writeElsewhere, removeElsewhere, listeners };
}

let memory: ReturnType<typeof memoryStore>;
beforeEach(() => (memory = memoryStore()));

const echo = (text: string) => `You said ${text}`;

const open = (model: Model = createFakeModel({ reply: echo }), options: Partial<SessionOptions> = {}): Session =>
  createSession({ model, store: memory.store, settings: () => ({ system: '' }), schedule: (update) => update(), ...options });

const texts = (session: Session) => session.getState().conversation.turns.map((turn) => turn.text);

/** Resolves at the very update that makes it true. */
function until(session: Session, holds: () => boolean): Promise<void> {
  return new Promise((resolve) => {
    const check = () => {
      if (!holds()) return;
      unsubscribe();
      resolve();
    };
    const unsubscribe = session.subscribe(check);
    check();
  });
}
const idle = (session: Session) => until(session, () => session.getState().writing === null);
const begun = (session: Session) => until(session, () => /\S/.test(session.getState().writing ?? ''));
const keptTexts = (id: string) => memory.kept.get(id)?.turns.map((turn) => turn.text);

/** Until the answer has ended and the store was asked to keep it. */
async function settled(session: Session): Promise<void> {
  await idle(session);
  await new Promise((resolve) => setTimeout(resolve));
}

describe('send', () => {
  it('shows the answer as it grows and keeps the conversation', async () => {
    const session = open();
    const seen: (string | null)[] = [];
    session.subscribe(() => seen.push(session.getState().writing));
    session.send('one two');
    await idle(session);
    expect(texts(session)).toEqual(['one two', 'You said one two']);
    expect(seen.slice(0, 4)).toEqual(['', 'You', 'You said', 'You said one']);
    const { id } = session.getState().conversation;
    await vi.waitFor(() => expect(keptTexts(id)).toEqual(texts(session)));
    expect(session.getState().finished?.usage?.completionTokens).toBe(4);
  });

  it('keeps the question before there is an answer', async () => {
    const session = open(createFakeModel({ delayMs: 5 }));
    session.send('one');
    expect(keptTexts(session.getState().conversation.id)).toEqual(['one']);
    await idle(session);
  });

  it('does nothing while an answer is being written', async () => {
    const session = open(createFakeModel({ delayMs: 2 }));
    session.send('one');
    session.send('two');
    session.regenerate();
    await idle(session);
    expect(texts(session)).toHaveLength(2);
  });

  it('asks with the settings of the moment', async () => {
    let maxTokens = 1;
    const session = open(undefined, { settings: () => ({ system: '', maxTokens }) });
    session.send('one');
    await idle(session);
    maxTokens = 2;
    session.send('two');
    await idle(session);
    expect(texts(session)).toEqual(['one', 'You', 'two', 'You said']);
    expect(session.getState().finished?.finish).toBe('length');
  });

  it('lets a model without a chat template go on with its own text', async () => {
    const prompts: string[] = [];
    const model = createFakeModel({ hasChatTemplate: false, reply: (prompt) => (prompts.push(prompt), ' on') });
    const session = open(model);
    session.send('Once upon');
    await idle(session);
    session.send('');
    await idle(session);
    expect(prompts).toEqual(['Once upon', 'Once upon on']);
    expect(texts(session)).toEqual(['Once upon', ' on', ' on']);
  });
});

describe('an answer that fails', () => {
  it('keeps the question and what was written, and says why', async () => {
    const error = new HaikuqError('device-lost', 'lost twice');
    const session = open(createFakeModel({ reply: echo, failAfter: { words: 2, error } }));
    session.send('one');
    await idle(session);
    expect(texts(session)).toEqual(['one', 'You said']);
    expect(session.getState().finished?.error).toEqual({ code: 'device-lost', message: 'lost twice' });
    await vi.waitFor(() => expect(keptTexts(session.getState().conversation.id)).toEqual(['one', 'You said']));
  });

  it('can be tried again', async () => {
    const failAfter = { words: 0, error: new HaikuqError('internal', 'first try') };
    const session = open(createFakeModel({ reply: echo, failAfter }));
    session.send('one');
    await idle(session);
    failAfter.words = -1;
    session.regenerate();
    await idle(session);
    expect(texts(session)).toEqual(['one', 'You said one']);
    expect(session.getState().finished?.error).toBeUndefined();
  });

  it('is reported where conversations cannot be kept', async () => {
    memory.store.update = () => Promise.reject(new Error('storage is off'));
    const session = open();
    session.send('one');
    await idle(session);
    await vi.waitFor(() => expect(session.getState().storeError).toBe('storage is off'));
    expect(texts(session)).toEqual(['one', 'You said one']);
  });
});

describe('stop', () => {
  it('ends an answer and keeps what there is of it', async () => {
    const session = open(createFakeModel({ delayMs: 5 }));
    session.send('one');
    await begun(session);
    session.stop();
    await idle(session);
    const turn = session.getState().finished;
    expect(turn?.finish).toBe('cancelled');
    expect(turn?.text).not.toBe('');
    expect(turn?.error).toBeUndefined();
  });
});

describe('edit and regenerate', () => {
  it('drops what followed and answers anew', async () => {
    const session = open();
    for (const text of ['one', 'two']) {
      session.send(text);
      await idle(session);
    }
    session.edit(session.getState().conversation.turns[0]!.id, 'three');
    await idle(session);
    expect(texts(session)).toEqual(['three', 'You said three']);
  });
});

describe('several conversations', () => {
  it('are opened and left, and an answer that was being written stays with its own', async () => {
    const session = open(createFakeModel({ delayMs: 5 }));
    session.send('one');
    const first = session.getState().conversation.id;
    await begun(session);
    session.startNew();
    expect(texts(session)).toEqual([]);
    expect(session.getState().writing).toBeNull();
    await vi.waitFor(() => expect(keptTexts(first)).toHaveLength(2));
    expect(texts(session)).toEqual([]);
    await session.open(first);
    expect(texts(session)[0]).toBe('one');
  });

  it('stay removed when an answer ends after that', async () => {
    const session = open(createFakeModel({ delayMs: 5 }));
    session.send('one');
    const { id } = session.getState().conversation;
    await begun(session);
    memory.writes.length = 0;
    await session.remove(id);
    session.send('two');
    await idle(session);
    expect(memory.kept.has(id)).toBe(false);
    expect(memory.writes).not.toContain(id);
  });

  it('come back as they were, to the front if they were there', async () => {
    const session = open();
    session.send('one');
    await settled(session);
    const { id } = session.getState().conversation;
    const removed = await session.remove(id);
    expect(memory.kept.has(id)).toBe(false);
    expect(texts(session)).toEqual([]);
    await session.restore(removed!, true);
    expect(texts(session)).toEqual(['one', 'You said one']);
    expect(keptTexts(id)).toEqual(texts(session));
    session.startNew();
    await session.restore((await session.remove(id))!, false);
    expect(texts(session)).toEqual([]);
    expect(memory.kept.has(id)).toBe(true);
    expect(await session.remove('another')).toBeUndefined();
  });

  it('that are there again by another tab are not overwritten', async () => {
    const session = open();
    session.send('one');
    await settled(session);
    const { id } = session.getState().conversation;
    const removed = (await session.remove(id))!;
    memory.writeElsewhere({ ...removed, turns: [...removed.turns, { role: 'user', id: 'x', text: 'more' }] });
    await session.restore(removed, true);
    expect(texts(session)).toEqual(['one', 'You said one', 'more']);
  });

  it('stay removed also when another one came to the front before', async () => {
    const session = open(createFakeModel({ delayMs: 5 }));
    session.send('one');
    const { id } = session.getState().conversation;
    await begun(session);
    memory.writes.length = 0;
    session.startNew();
    await session.remove(id);
    session.send('two');
    await idle(session);
    await vi.waitFor(() => expect(keptTexts(session.getState().conversation.id)).toHaveLength(2));
    expect(memory.writes).not.toContain(id);
    expect(memory.kept.has(id)).toBe(false);
  });

  it('follow another tab, but not while an answer is being written', async () => {
    const session = open(createFakeModel({ delayMs: 5 }));
    session.send('one');
    const asked = session.getState().conversation;
    memory.writeElsewhere({ ...asked, turns: [] });
    await idle(session);
    expect(texts(session)).toHaveLength(2);
    memory.writeElsewhere({ ...asked, turns: [{ role: 'user', id: 'x', text: 'from elsewhere' }] });
    await vi.waitFor(() => expect(texts(session)).toEqual(['from elsewhere']));
  });

  it('stay removed when another tab removed them', async () => {
    const session = open(createFakeModel({ delayMs: 5 }));
    session.send('one');
    const { id } = session.getState().conversation;
    await begun(session);
    memory.removeElsewhere(id);
    await settled(session);
    expect(memory.kept.has(id)).toBe(false);
    // A user who goes on with a conversation that is still shown wants it kept.
    session.send('two');
    await settled(session);
    expect(keptTexts(id)).toHaveLength(4);
  });

  it('are left alone after the session is closed', () => {
    const session = open();
    session.close();
    expect(memory.listeners.size).toBe(0);
  });
});

describe('a conversation that another tab goes on with', () => {
  const elsewhere = { role: 'user', id: 'elsewhere', text: 'from elsewhere' } as const;
  const withTurnElsewhere = (conversation: Conversation): Conversation => ({
    ...conversation,
    turns: [...conversation.turns, elsewhere],
    updatedAt: conversation.updatedAt + 1,
  });

  it('keeps the turns of both when that is during an answer', async () => {
    const session = open(createFakeModel({ delayMs: 5, reply: echo }));
    session.send('one');
    const { id } = session.getState().conversation;
    await begun(session);
    memory.writeElsewhere(withTurnElsewhere(memory.kept.get(id)!));
    await settled(session);
    expect(keptTexts(id)).toEqual(['one', 'You said one', 'from elsewhere']);
    expect(texts(session)).toEqual(keptTexts(id));
    expect(memory.kept.size).toBe(1);
  });

  it('keeps the turns of both when word of it comes only after the question', async () => {
    const session = open(createFakeModel({ reply: echo }));
    session.send('one');
    await settled(session);
    const { id } = session.getState().conversation;
    memory.kept.set(id, withTurnElsewhere(memory.kept.get(id)!));
    session.send('two');
    await settled(session);
    expect(keptTexts(id)).toEqual(['one', 'You said one', 'from elsewhere', 'two', 'You said two']);
    expect(texts(session)).toEqual(keptTexts(id));
  });

  it('becomes two when the question was changed there', async () => {
    const session = open(createFakeModel({ delayMs: 5, reply: echo }));
    session.send('one');
    const asked = session.getState().conversation;
    await begun(session);
    memory.writeElsewhere({ ...asked, turns: [elsewhere] });
    await settled(session);
    expect(keptTexts(asked.id)).toEqual(['from elsewhere']);
    const copy = session.getState().conversation;
    expect(copy.id).not.toBe(asked.id);
    expect(copy.title).toBe('one (copy)');
    expect(keptTexts(copy.id)).toEqual(['one', 'You said one']);
    session.send('two');
    await settled(session);
    expect(memory.kept.get(copy.id)).toMatchObject({ title: 'one (copy)', turns: { length: 4 } });
    expect(memory.kept.size).toBe(2);
  });

  it('becomes two when an answer is asked for anew here, and a removed copy stays removed', async () => {
    const session = open(createFakeModel({ delayMs: 5, reply: echo }));
    session.send('one');
    await settled(session);
    const { id } = session.getState().conversation;
    memory.kept.set(id, withTurnElsewhere(memory.kept.get(id)!));
    session.regenerate();
    await begun(session);
    const copy = session.getState().conversation.id;
    expect(copy).not.toBe(id);
    expect(keptTexts(copy)).toEqual(['one']);
    session.startNew();
    await session.remove(copy);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect([...memory.kept.keys()]).toEqual([id]);
    expect(keptTexts(id)).toEqual(['one', 'You said one', 'from elsewhere']);
  });
});
