import { describe, expect, it } from 'vitest';
import {
  documentOf,
  messagesOf,
  newConversation,
  titleOf,
  withAnswer,
  withEditedTurn,
  withoutLastAnswer,
  withUserTurn,
  type AssistantTurn,
  type Conversation,
} from './conversation.ts';

const answer = (text: string): AssistantTurn => ({ role: 'assistant', id: crypto.randomUUID(), text, model: 'm' });

/** Turns from texts, the user's first. */
const talk = (...texts: string[]): Conversation =>
  texts.reduce(
    (conversation, text, index) => (index % 2 ? withAnswer(conversation, answer(text)) : withUserTurn(conversation, text)),
    newConversation(),
  );

const texts = (conversation: Conversation) => conversation.turns.map((turn) => turn.text);

describe('titleOf', () => {
  it('is the first line', () => expect(titleOf('\n One line \nand another')).toBe('One line'));
  it('is cut at a word', () => {
    expect(titleOf('word '.repeat(30))).toBe(`${'word '.repeat(11)}word…`);
  });
  it('is cut anywhere in a text without spaces', () => expect(titleOf('x'.repeat(100))).toBe(`${'x'.repeat(60)}…`));
});

describe('a conversation', () => {
  it('is called after its first user turn, also when that is edited', () => {
    const first = talk('one', 'two', 'three');
    expect(first.title).toBe('one');
    expect(withEditedTurn(first, first.turns[0]!.id, 'another').title).toBe('another');
  });

  it('loses what follows an edited turn', () => {
    const conversation = talk('one', 'two', 'three', 'four');
    expect(texts(withEditedTurn(conversation, conversation.turns[2]!.id, 'changed'))).toEqual(['one', 'two', 'changed']);
  });

  it('has no turns of the model edited', () => {
    const conversation = talk('one', 'two');
    expect(() => withEditedTurn(conversation, conversation.turns[1]!.id, 'x')).toThrow(RangeError);
  });

  it('loses one answer to have another', () => {
    expect(texts(withoutLastAnswer(talk('one', 'two')))).toEqual(['one']);
    expect(texts(withoutLastAnswer(withAnswer(talk('one', 'two'), answer('more'))))).toEqual(['one', 'two']);
    expect(texts(withoutLastAnswer(talk('one', 'two', 'three')))).toEqual(['one', 'two', 'three']);
  });
});

describe('messagesOf', () => {
  it('puts the system prompt first', () => {
    expect(messagesOf(talk('one', 'two'), 'Be brief.')).toEqual([
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'one' },
      { role: 'assistant', content: 'two' },
    ]);
  });

  it('has no system message where there is no prompt', () => {
    expect(messagesOf(talk('one'), ' \n')).toEqual([{ role: 'user', content: 'one' }]);
  });

  it('joins user turns around an answer that failed before its first word', () => {
    expect(messagesOf(talk('one', '', 'two'), '')).toEqual([{ role: 'user', content: 'one\n\ntwo' }]);
  });
});

it('is a text for a model without a chat template, spaces and all', () => {
  expect(documentOf(talk('Once ', 'upon a', ' time'))).toBe('Once upon a time');
});
