import { memo, useEffect, useRef, useState, type FormEvent } from 'react';
import type { UserTurn } from '../data/conversation.ts';
import { Icon } from '../ui/icon.tsx';
import { isSendKey } from './composer.tsx';
import { CopyButton } from './copy-button.tsx';

export interface UserMessageProps {
  turn: UserTurn;
  /** While an answer is being written nothing can be edited. */
  locked: boolean;
  onEdit: (id: string, text: string) => void;
  onActed: () => void;
}

export const UserMessage = memo(function UserMessage({ turn, locked, onEdit, onActed }: UserMessageProps) {
  const [editing, setEditing] = useState(false);
  const editButton = useRef<HTMLButtonElement>(null);
  const cancelled = useRef(false);
  useEffect(() => {
    if (!editing && cancelled.current) editButton.current?.focus();
    cancelled.current = false;
  }, [editing]);

  return (
    <article className="message message--user" aria-label="You">
      {editing ? (
        <EditForm
          text={turn.text}
          locked={locked}
          onCancel={() => {
            cancelled.current = true;
            setEditing(false);
          }}
          onSave={(text) => {
            setEditing(false);
            onEdit(turn.id, text);
            onActed();
          }}
        />
      ) : (
        <>
          <div className="message__text" data-testid="message-user">
            {turn.text}
          </div>
          <div className="message__actions">
            <CopyButton text={turn.text} />
            <button
              ref={editButton}
              type="button"
              className="button button--quiet button--small"
              data-testid="edit"
              disabled={locked}
              onClick={() => setEditing(true)}
            >
              <Icon name="edit" /> Edit
            </button>
          </div>
        </>
      )}
    </article>
  );
});

interface EditFormProps {
  text: string;
  locked: boolean;
  onSave: (text: string) => void;
  onCancel: () => void;
}

function EditForm({ text, locked, onSave, onCancel }: EditFormProps) {
  const [changed, setChanged] = useState(text);
  const field = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    field.current?.focus();
    field.current?.setSelectionRange(-1, -1);
  }, []);
  const savable = !locked && changed.trim() !== '';
  const save = (event?: FormEvent) => {
    event?.preventDefault();
    if (savable) onSave(changed);
  };
  return (
    <form className="edit" onSubmit={save}>
      <textarea
        ref={field}
        className="field edit__text"
        aria-label="Your message; what followed it will be dropped"
        data-testid="edit-text"
        value={changed}
        onChange={(event) => setChanged(event.target.value)}
        onKeyDown={(event) => {
          if (event.key === 'Escape') {
            // Only the editing ends, not an answer that is being written.
            event.preventDefault();
            event.stopPropagation();
            onCancel();
          } else if (isSendKey(event)) {
            event.preventDefault();
            save();
          }
        }}
      />
      <div className="edit__actions">
        <button type="submit" className="button button--small button--primary" data-testid="edit-save" disabled={!savable}>
          Send
        </button>
        <button type="button" className="button button--small" onClick={onCancel}>
          Cancel
        </button>
      </div>
    </form>
  );
}
