import { useEffect, useRef, useState } from 'react';
import { failureOf } from '../../../shared/advice.ts';
import type { Conversation } from '../data/conversation.ts';
import type { ConversationStore } from '../data/database.ts';
import { Icon } from '../ui/icon.tsx';
import { AssistantMessage } from './assistant-message.tsx';
import { useConversations } from './use-session.ts';

export interface KeptConversationsProps {
  store: ConversationStore;
  /** The title of the one that the next model goes on with. */
  next: string | undefined;
  onGoOn: (conversation: Conversation) => void;
}

/** The conversations, to read without a model: before one is chosen, and while one loads. */
export function KeptConversations({ store, next, onGoOn }: KeptConversationsProps) {
  const conversations = useConversations(store);
  const [reading, setReading] = useState<Conversation | null>(null);
  const [problem, setProblem] = useState<string | null>(null);
  if (conversations.length === 0) return null;

  const open = async (id: string) => {
    setProblem(null);
    try {
      setReading((await store.get(id)) ?? null);
    } catch (error) {
      setProblem(failureOf(error).message);
    }
  };

  return (
    <section className="start__section" aria-labelledby="kept-conversations">
      <h2 id="kept-conversations">Conversations</h2>
      <ul className="stored kept" data-testid="kept-conversations">
        {conversations.map(({ id, title }) => (
          <li key={id} className="stored__item">
            <button type="button" className="stored__open" onClick={() => void open(id)}>
              <span className="package__name">{title || 'Untitled'}</span>
            </button>
          </li>
        ))}
      </ul>
      <p className="small muted" role="status">
        {next !== undefined && `The model goes on with “${next || 'Untitled'}”.`}
      </p>
      {problem && (
        <p className="problem" role="alert">
          {problem}
        </p>
      )}
      {reading && (
        <Reader
          conversation={reading}
          onClose={() => setReading(null)}
          onGoOn={() => {
            onGoOn(reading);
            setReading(null);
          }}
        />
      )}
    </section>
  );
}

function Reader({ conversation, onClose, onGoOn }: { conversation: Conversation; onClose: () => void; onGoOn: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const element = dialog.current;
    if (element && !element.open) element.showModal();
  }, []);
  const nothing = () => undefined;
  return (
    <dialog ref={dialog} className="reader" aria-labelledby="reader-title" onClose={onClose} data-testid="reader">
      <header className="reader__head">
        <h2 id="reader-title">{conversation.title || 'Untitled'}</h2>
        <button type="button" className="button button--quiet button--icon" aria-label="Close the conversation" onClick={onClose}>
          <Icon name="close" />
        </button>
      </header>
      {/* Focusable, so that the arrow keys scroll it. */}
      <div className="reader__log" tabIndex={0} role="region" aria-label="Messages">
        <div className="log__column">
          {conversation.turns.map((turn) =>
            turn.role === 'user' ? (
              <article key={turn.id} className="message message--user" aria-label="You">
                <div className="message__text">{turn.text}</div>
              </article>
            ) : (
              <AssistantMessage key={turn.id} turn={turn} last={false} onRegenerate={nothing} onReload={nothing} onActed={nothing} />
            ),
          )}
        </div>
      </div>
      <footer className="reader__foot">
        <button type="button" className="button button--primary" data-testid="go-on" onClick={onGoOn}>
          Go on with it
        </button>
        <span className="small muted">as soon as there is a model</span>
      </footer>
    </dialog>
  );
}
