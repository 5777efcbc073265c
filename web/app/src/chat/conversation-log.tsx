import { useLayoutEffect, useRef, useState } from 'react';
import type { Turn } from '../data/conversation.ts';
import { Icon, Mark } from '../ui/icon.tsx';
import { AssistantMessage, WritingMessage } from './assistant-message.tsx';
import type { Session } from './session.ts';
import { UserMessage } from './user-message.tsx';
import { useSession } from './use-session.ts';

export interface ConversationLogProps {
  session: Session;
  canChat: boolean;
  /** Tokens of the conversation, once they are known. */
  context: number | null;
  /** Loads the model again. */
  onReload: () => void;
  /** A button that is gone now was pressed: focus has to go elsewhere. */
  onActed: () => void;
}

/** As near to the end as counts for being there. */
const END_SLACK_PX = 48;

const starters = ['Write a haiku about rain.', 'Tell me a story about a small brave bird.', 'What makes a good morning?'];

export function ConversationLog({ session, canChat, context, onReload, onActed }: ConversationLogProps) {
  const { turns, id } = useSession(session, (state) => state.conversation);
  const writing = useSession(session, (state) => state.writing);
  const log = useRef<HTMLDivElement>(null);
  /** Whether the end of the log stays in view as it grows. */
  const [atEnd, setAtEnd] = useState(true);
  const lastUserId = turns.findLast((turn) => turn.role === 'user')?.id;

  const scrollToEnd = () => {
    if (log.current) log.current.scrollTop = log.current.scrollHeight;
  };
  // A new message or another conversation is shown from its end, wherever one was before.
  // biome-ignore lint/correctness/useExhaustiveDependencies: what changes is when to scroll; scrolling itself reads the element
  useLayoutEffect(() => {
    setAtEnd(true);
    scrollToEnd();
  }, [id, lastUserId]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: the same
  useLayoutEffect(() => {
    if (atEnd) scrollToEnd();
  }, [atEnd, writing, turns]);

  const onScroll = () => {
    const { scrollHeight, scrollTop, clientHeight } = log.current!;
    setAtEnd(scrollHeight - scrollTop - clientHeight < END_SLACK_PX);
  };

  const message = (turn: Turn, index: number) =>
    turn.role === 'user' ? (
      <UserMessage key={turn.id} turn={turn} locked={writing !== null} onEdit={session.edit} onActed={onActed} />
    ) : (
      <AssistantMessage
        key={turn.id}
        turn={turn}
        last={index === turns.length - 1 && writing === null}
        onRegenerate={session.regenerate}
        onReload={onReload}
        onActed={onActed}
      />
    );

  return (
    <div className="log-frame">
      {/* Focusable, so that the arrow keys scroll it. */}
      <div ref={log} className="log" role="log" aria-live="off" aria-label="Conversation" tabIndex={0} onScroll={onScroll}>
        <div className="log__column">
          {turns.length === 0 && writing === null && <Welcome canChat={canChat} onStart={session.send} onActed={onActed} />}
          {turns.map(message)}
          {writing !== null && <WritingMessage text={writing} tokens={context} />}
        </div>
      </div>
      {!atEnd && (
        <button type="button" className="button log-frame__end" aria-label="To the end of the conversation" onClick={() => setAtEnd(true)}>
          <Icon name="down" />
        </button>
      )}
    </div>
  );
}

function Welcome({ canChat, onStart, onActed }: { canChat: boolean; onStart: (text: string) => void; onActed: () => void }) {
  return (
    <div className="welcome">
      <Mark />
      <p>Nothing that you write here leaves this device.</p>
      {canChat ? (
        <ul className="welcome__starters" aria-label="To begin with">
          {starters.map((text) => (
            <li key={text}>
              <button
                type="button"
                className="button button--small"
                onClick={() => {
                  onStart(text);
                  onActed();
                }}
              >
                {text}
              </button>
            </li>
          ))}
        </ul>
      ) : (
        <p className="muted small">This package has no chat template: the model does not answer, it continues your text.</p>
      )}
    </div>
  );
}
