import { useSession } from './use-session.ts';
import type { Session } from './session.ts';

/** Tells screen readers when an answer begins, and the whole of it when it is finished: not every token. */
export function Announcer({ session }: { session: Session }) {
  const writing = useSession(session, (state) => state.writing !== null);
  const finished = useSession(session, (state) => state.finished);
  return (
    <div className="visually-hidden" aria-live="polite" data-testid="announcer">
      {writing ? 'The model is writing.' : finished && !finished.error ? `The model says: ${finished.text}` : ''}
    </div>
  );
}
