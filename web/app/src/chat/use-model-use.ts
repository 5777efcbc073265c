import { useEffect, useState } from 'react';
import type { MemoryUse, Model } from 'haikuq';
import { documentOf, messagesOf } from '../data/conversation.ts';
import type { Session } from './session.ts';
import { useSession } from './use-session.ts';

export interface ModelUse {
  memory: MemoryUse | null;
  /** Tokens of the conversation, as the model reads it. */
  context: number | null;
}

/** What the conversation takes of the model; measured whenever the conversation changes. */
export function useModelUse(model: Model, session: Session, system: string): ModelUse {
  const [memory, setMemory] = useState<MemoryUse | null>(null);
  const [context, setContext] = useState<number | null>(null);
  const conversation = useSession(session, (state) => state.conversation);

  useEffect(() => {
    let current = true;
    const text = model.info.hasChatTemplate ? messagesOf(conversation, system) : documentOf(conversation);
    // A lost device has its own message; there is nothing to add here.
    model.memory().then(
      (use) => current && setMemory(use),
      () => undefined,
    );
    if (conversation.turns.length === 0) setContext(0);
    else {
      model.countTokens(text).then(
        (tokens) => current && setContext(tokens),
        () => current && setContext(null),
      );
    }
    return () => void (current = false);
  }, [model, conversation, system]);

  return { memory, context };
}
