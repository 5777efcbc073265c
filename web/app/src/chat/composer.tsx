import { useEffect, useState, type FormEvent, type KeyboardEvent, type Ref, type RefObject } from 'react';
import { formatCount } from '../../../shared/format.ts';
import { readKept, writeKept } from '../data/kept.ts';
import { Icon } from '../ui/icon.tsx';
import type { Session } from './session.ts';
import { useSession } from './use-session.ts';

export interface ComposerProps {
  ref: RefObject<HTMLTextAreaElement | null>;
  session: Session;
  /** Whether the model answers, or only continues text. */
  canChat: boolean;
  context: number | null;
  contextSize: number;
}

const ofThisTab = () => sessionStorage;

/** Text that is not sent yet survives a reload of the page. */
function useDraft(): [string, (text: string) => void] {
  const [draft, setDraft] = useState(() => {
    const kept = readKept('draft', ofThisTab);
    return typeof kept === 'string' ? kept : '';
  });
  useEffect(() => writeKept('draft', draft === '' ? null : draft, ofThisTab), [draft]);
  return [draft, setDraft];
}

/** Enter without Shift, and not the one that ends an input method's word. */
export const isSendKey = (event: KeyboardEvent): boolean => event.key === 'Enter' && !event.shiftKey && !event.nativeEvent.isComposing;

export function Composer({ ref, session, canChat, context, contextSize }: ComposerProps) {
  const [draft, setDraft] = useDraft();
  const writing = useSession(session, (state) => state.writing !== null);
  const hasTurns = useSession(session, (state) => state.conversation.turns.length > 0);
  const sendable = !writing && (draft.trim() !== '' || (!canChat && hasTurns));

  const send = () => {
    if (!sendable) return;
    // Spaces around a message mean nothing; around a text that is continued they do.
    session.send(canChat ? draft.trim() : draft);
    setDraft('');
  };

  const submit = (event: FormEvent) => {
    event.preventDefault();
    send();
    ref.current?.focus();
  };

  return (
    <form className="composer" onSubmit={submit}>
      <div className="composer__box">
        <label className="visually-hidden" htmlFor="prompt">
          {canChat ? 'Message' : 'Text to continue'}
        </label>
        <textarea
          id="prompt"
          ref={ref as Ref<HTMLTextAreaElement>}
          className="composer__text"
          data-testid="prompt"
          rows={1}
          placeholder={canChat ? 'Write a message' : 'Write a text for the model to continue'}
          aria-describedby="composer-help"
          value={draft}
          onChange={(event) => setDraft(event.target.value)}
          onKeyDown={(event) => {
            if (!isSendKey(event)) return;
            event.preventDefault();
            send();
          }}
        />
        {writing ? (
          <button
            key="stop"
            type="button"
            className="button composer__button"
            aria-label="Stop"
            title="Stop (Esc)"
            data-testid="stop"
            onClick={() => {
              session.stop();
              ref.current?.focus();
            }}
          >
            <Icon name="stop" />
          </button>
        ) : (
          <button
            key="send"
            type="submit"
            className="button button--primary composer__button"
            aria-label={canChat ? 'Send' : 'Continue the text'}
            title={canChat ? 'Send (Enter)' : 'Continue (Enter)'}
            data-testid="send"
            disabled={!sendable}
          >
            <Icon name="send" />
          </button>
        )}
      </div>
      <p className="composer__foot small muted">
        <span id="composer-help">Enter sends, Shift+Enter starts a line, Esc stops</span>
        {context !== null && (
          <span data-testid="context">
            {formatCount(context)} of {formatCount(contextSize)} tokens
          </span>
        )}
      </p>
    </form>
  );
}
