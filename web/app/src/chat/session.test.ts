import { HaikuqError, type Model } from 'haikuq';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import type { Conversation } from '../data/conversation.ts';
import type { ConversationStore } from '../data/database.ts';
import { createFakeModel } from '../../../shared/dev/fake-model.ts';
import { createSession, type Session, type SessionOptions } from './session.ts';

/** Conversations in memory, with a way to play another tab. */
function memoryStore() {
  const kept = new Map<string, Conversation>();
  const listeners = new Set<(id: string, here: boolean) => void>();
  const changed = (id: string, here: boolean) => listeners.forEach((listener) => listener(id, here));
  const store: ConversationStore = {
    list: async () => [...kept.values()],
    get: async (id) => kept.get(id),
    put: async (conversation) => {
      kept.set(conversation.id, conversation);
      changed(conversation.id, true);
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
  return { store, kept, writeElsewhere, listeners };
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
    memory.store.put = () => Promise.reject(new Error('storage is off'));
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
    const put = vi.spyOn(memory.store, 'put');
    await session.remove(id);
    session.send('two');
    await idle(session);
    expect(memory.kept.has(id)).toBe(false);
    expect(put.mock.calls.map(([conversation]) => conversation.id)).not.toContain(id);
  });

  it('stay removed also when another one came to the front before', async () => {
    const session = open(createFakeModel({ delayMs: 5 }));
    session.send('one');
    const { id } = session.getState().conversation;
    await begun(session);
    const put = vi.spyOn(memory.store, 'put');
    session.startNew();
    await session.remove(id);
    session.send('two');
    await idle(session);
    await vi.waitFor(() => expect(keptTexts(session.getState().conversation.id)).toHaveLength(2));
    expect(put.mock.calls.map(([conversation]) => conversation.id)).not.toContain(id);
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

  it('are left alone after the session is closed', () => {
    const session = open();
    session.close();
    expect(memory.listeners.size).toBe(0);
  });
});
