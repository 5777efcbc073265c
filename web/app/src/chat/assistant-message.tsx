import { memo } from 'react';
import { formatCount, formatMilliseconds, formatRate } from '../../../shared/format.ts';
import { needsReload } from '../../../shared/advice.ts';
import type { AssistantTurn } from '../data/conversation.ts';
import { ErrorCard } from '../../../shared/error-card.tsx';
import { Icon } from '../ui/icon.tsx';
import { CopyButton } from './copy-button.tsx';
import { Waiting } from './waiting.tsx';

export interface AssistantMessageProps {
  turn: AssistantTurn;
  /** The last of the conversation: it can be written anew. */
  last: boolean;
  onRegenerate: () => void;
  onReload: () => void;
  onActed: () => void;
}

/** What the reader should know of how this answer came about. */
export function noticesOf({ finish, trimmed, recoveries, text }: AssistantTurn): string[] {
  const notices: string[] = [];
  if (trimmed && trimmed.droppedMessages.length > 0) {
    const count = trimmed.droppedMessages.length;
    notices.push(
      `The conversation no longer fits: the model did not see its ${count === 1 ? 'oldest message' : `${count} oldest messages`} ` +
        `(${formatCount(trimmed.promptTokensBefore)} tokens, cut to ${formatCount(trimmed.promptTokensAfter)}).`,
    );
  }
  if (recoveries) notices.push('The graphics device was lost and brought back while this was written.');
  if (finish === 'cancelled') notices.push(text === '' ? 'Stopped before the first word.' : 'Stopped.');
  if (finish === 'length') notices.push('Ended at the longest answer that the settings allow.');
  if (finish === 'context') notices.push('Ended because the model’s context is full.');
  return notices;
}

/** Speed and size of an answer, in the order in which people ask. */
export function statsOf({ usage, timings }: AssistantTurn): string[] {
  if (!usage || !timings || usage.completionTokens === 0) return [];
  const reused = usage.reusedTokens > 0 ? `, ${formatCount(usage.reusedTokens)} of them reused` : '';
  return [
    timings.tokensPerSecond > 0 ? `${formatRate(timings.tokensPerSecond)} tokens/s` : '',
    `first after ${formatMilliseconds(timings.timeToFirstTokenMs)}`,
    `${formatCount(usage.completionTokens)} tokens`,
    `prompt of ${formatCount(usage.promptTokens)}${reused}`,
  ].filter((stat) => stat !== '');
}

export const AssistantMessage = memo(function AssistantMessage({ turn, last, onRegenerate, onReload, onActed }: AssistantMessageProps) {
  const stats = statsOf(turn);
  const act = (action: () => void) => () => {
    action();
    onActed();
  };
  return (
    <article className="message message--assistant" aria-label="Model">
      {turn.text !== '' && (
        <div className="message__text" data-testid="message-assistant">
          {turn.text}
        </div>
      )}
      {noticesOf(turn).map((notice) => (
        <p key={notice} className="message__notice">
          {notice}
        </p>
      ))}
      {turn.error && (
        <ErrorCard failure={{ ...turn.error, details: {} }}>
          {last && needsReload(turn.error.code) && (
            <button type="button" className="button button--small" data-testid="reload-model" onClick={onReload}>
              Load the model again
            </button>
          )}
        </ErrorCard>
      )}
      <div className="message__actions">
        {turn.text !== '' && <CopyButton text={turn.text} />}
        {last && (
          <button type="button" className="button button--quiet button--small" data-testid="regenerate" onClick={act(onRegenerate)}>
            <Icon name="again" /> {turn.error ? 'Try again' : 'Regenerate'}
          </button>
        )}
        {stats.length > 0 && (
          <p className="message__stats" data-testid="stats" title={`Written by ${turn.model}`}>
            {stats.join(' · ')}
          </p>
        )}
      </div>
    </article>
  );
});

/** An answer that is growing, to a conversation of so many tokens. */
export function WritingMessage({ text, tokens }: { text: string; tokens: number | null }) {
  return (
    <article className="message message--assistant" aria-label="Model" aria-busy="true">
      <div className="message__text message__text--writing" data-testid="message-assistant">
        {text}
      </div>
      {text === '' && <Waiting tokens={tokens} />}
    </article>
  );
}
