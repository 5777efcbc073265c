import { useEffect, useRef, useState } from 'react';
import { failureOf } from '../../../shared/advice.ts';
import type { Conversation } from '../data/conversation.ts';
import type { ConversationStore } from '../data/database.ts';
import { Icon, Mark } from '../ui/icon.tsx';
import type { Session } from './session.ts';
import { useConversations, useSession } from './use-session.ts';

export interface ConversationListProps {
  session: Session;
  store: ConversationStore;
  /** A conversation was chosen. */
  onDone: () => void;
}

const when = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });

export function ConversationList({ session, store, onDone }: ConversationListProps) {
  const conversations = useConversations(store);
  const currentId = useSession(session, (state) => state.conversation.id);
  const [problem, setProblem] = useState<string | null>(null);
  const newButton = useRef<HTMLButtonElement>(null);
  const undoButton = useRef<HTMLButtonElement>(null);
  /** What was deleted last, and whether it was open. */
  const [deleted, setDeleted] = useState<{ conversation: Conversation; open: boolean } | null>(null);
  // The button that was pressed is gone with its conversation.
  useEffect(() => {
    if (deleted) undoButton.current?.focus();
  }, [deleted]);

  const attempt = async (action: Promise<void>, then?: () => void) => {
    setProblem(null);
    await action.then(then, (error: unknown) => setProblem(failureOf(error).message));
  };

  const remove = async (id: string) => {
    const conversation = await session.remove(id);
    setDeleted(conversation ? { conversation, open: id === currentId } : null);
    if (!conversation) newButton.current?.focus();
  };
  const undo = async ({ conversation, open }: { conversation: Conversation; open: boolean }) => {
    await session.restore(conversation, open);
    setDeleted(null);
    newButton.current?.focus();
  };

  return (
    <nav className="conversations" aria-label="Conversations">
      <div className="conversations__brand">
        <Mark />
        <span>haikuq</span>
      </div>
      <button
        ref={newButton}
        type="button"
        className="button"
        data-testid="new-conversation"
        onClick={() => {
          session.startNew();
          setDeleted(null);
          onDone();
        }}
      >
        <Icon name="plus" /> New conversation
      </button>
      {problem && (
        <p className="problem" role="alert">
          {problem}
        </p>
      )}
      {deleted && (
        <p className="conversations__deleted small" role="status">
          <span>Deleted “{deleted.conversation.title || 'Untitled'}”.</span>
          <button
            ref={undoButton}
            type="button"
            className="button button--small"
            data-testid="undo-delete"
            onClick={() => void attempt(undo(deleted))}
          >
            Undo
          </button>
        </p>
      )}
      <ul className="conversations__list" data-testid="conversation-list">
        {conversations.map(({ id, title, updatedAt }) => (
          <li key={id} className="conversations__item">
            <button
              type="button"
              className="conversations__open"
              aria-current={id === currentId || undefined}
              title={when.format(updatedAt)}
              onClick={() => void attempt(session.open(id), onDone)}
            >
              {title || 'Untitled'}
            </button>
            <button
              type="button"
              className="button button--quiet button--icon"
              aria-label={`Delete “${title || 'Untitled'}”`}
              title="Delete"
              data-testid="delete-conversation"
              onClick={() => void attempt(remove(id))}
            >
              <Icon name="trash" />
            </button>
          </li>
        ))}
      </ul>
      <p className="small muted">Conversations are kept in this browser alone.</p>
    </nav>
  );
}
