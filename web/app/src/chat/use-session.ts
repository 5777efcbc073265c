import { useCallback, useEffect, useState, useSyncExternalStore } from 'react';
import type { ConversationSummary } from '../data/conversation.ts';
import type { ConversationStore } from '../data/database.ts';
import type { Session, SessionState } from './session.ts';

/** Part of a session's state; renders when that part changes. `select` must return the same value for the same state. */
export function useSession<T>(session: Session, select: (state: SessionState) => T): T {
  return useSyncExternalStore(session.subscribe, () => select(session.getState()));
}

/** The conversations that are kept, newest first, whichever tab wrote them. */
export function useConversations(store: ConversationStore): ConversationSummary[] {
  const [conversations, setConversations] = useState<ConversationSummary[]>([]);
  const refresh = useCallback(() => {
    // Where storage is refused the list stays empty; the session says why when it keeps a conversation.
    store.list().then(setConversations, () => undefined);
  }, [store]);
  useEffect(() => {
    refresh();
    return store.onChange(refresh);
  }, [store, refresh]);
  return conversations;
}
