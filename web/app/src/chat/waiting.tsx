import { useEffect, useState } from 'react';
import { formatCount } from '../../../shared/format.ts';

/**
 * What happens before the first word: the model reads. Shown after a second. How far it has come is not known, so how much
 * there is to read and for how long it has been at it.
 */
export function Waiting({ tokens }: { tokens: number | null }) {
  const [seconds, setSeconds] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => setSeconds((seconds) => seconds + 1), 1000);
    return () => clearInterval(timer);
  }, []);
  if (seconds === 0) return null;
  return (
    <p className="message__waiting" data-testid="waiting">
      <progress aria-label="Reading the conversation" />
      <span>
        Reading {tokens === null ? 'the conversation' : `${formatCount(tokens)} tokens`}, {formatCount(seconds)} s so far
      </span>
    </p>
  );
}
