import { describe, expect, it } from 'vitest';
import type { Conversation, Turn } from './conversation.ts';
import { reconcile } from './reconcile.ts';

/** Turns by their ids: `u…` are the user's. */
const talk = (...ids: string[]): Conversation => ({
  id: 'c',
  title: 'title',
  updatedAt: 1,
  turns: ids.map((id): Turn => (id.startsWith('u') ? { role: 'user', id, text: id } : { role: 'assistant', id, text: id, model: 'm' })),
});
const ids = (conversation: Conversation) => conversation.turns.map((turn) => turn.id);

describe('reconcile', () => {
  it.each<[string, { base: string[]; mine: string[]; stored: string[] }]>([
    ['nothing changed', { base: ['u1'], mine: ['u1', 'a1'], stored: ['u1'] }],
    ['the stored one is older', { base: ['u1', 'a1'], mine: ['u1', 'a1', 'u2'], stored: ['u1'] }],
    ['an answer is dropped here', { base: ['u1', 'a1'], mine: ['u1'], stored: ['u1', 'a1'] }],
  ])('is what this tab has where %s', (_, { base, mine, stored }) => {
    const own = talk(...mine);
    expect(reconcile(own, talk(...base), talk(...stored))).toBe(own);
  });

  it.each<[string, { base: string[]; mine: string[]; stored: string[]; both: string[] }]>([
    [
      'a question comes last',
      { base: ['u1', 'a1'], mine: ['u1', 'a1', 'u2'], stored: ['u1', 'a1', 'u3', 'a3'], both: ['u1', 'a1', 'u3', 'a3', 'u2'] },
    ],
    ['an answer follows its question', { base: ['u1'], mine: ['u1', 'a1'], stored: ['u1', 'u3', 'a3'], both: ['u1', 'a1', 'u3', 'a3'] }],
    [
      'a text that was continued comes last',
      { base: ['u1', 'a1'], mine: ['u1', 'a1', 'a2'], stored: ['u1', 'a1', 'a3'], both: ['u1', 'a1', 'a3', 'a2'] },
    ],
  ])('has the turns of both where both went on: %s', (_, { base, mine, stored, both }) => {
    const kept = reconcile(talk(...mine), talk(...base), talk(...stored));
    expect(ids(kept)).toEqual(both);
    expect(kept).toMatchObject({ id: 'c', title: 'title' });
    expect(kept.updatedAt).toBeGreaterThan(1);
  });

  it.each<[string, { base: string[]; mine: string[]; stored: string[] }]>([
    ['there', { base: ['u1', 'a1'], mine: ['u1', 'a1', 'u2'], stored: ['u1', 'a9'] }],
    ['here', { base: ['u1', 'a1'], mine: ['u1', 'a9'], stored: ['u1', 'a1', 'u3'] }],
  ])('is a copy where what was before changed %s', (_, { base, mine, stored }) => {
    const kept = reconcile(talk(...mine), talk(...base), talk(...stored));
    expect(ids(kept)).toEqual(mine);
    expect(kept.title).toBe('title (copy)');
    expect(kept.id).not.toBe('c');
  });
});
