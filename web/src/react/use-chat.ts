import { useEffect, useState, useSyncExternalStore } from 'react';
import type { HaikuqError } from '../errors.js';
import type { ChatBackend, ChatOptions, GenerationResult } from '../types.js';
import { type ChatSession, type ChatSnapshot, createChatSession, type NewMessage } from './chat-session.js';

export interface UseChatOptions {
  /** Who answers: a model, what `hybrid` gives, or an adapter. Nothing yet (while a model loads) is fine until `send`. */
  model?: ChatBackend | null | undefined;
  /** The same under the name that fits `hybrid` better; wins over `model`. */
  backend?: ChatBackend | null | undefined;
  /** For every answer: sampling, limits, overflow. A change holds from the next answer on. */
  options?: ChatOptions;
  /** What the conversation starts with, such as a system message; read on the first render. */
  initialMessages?: readonly NewMessage[];
  /** An answer broke off. Stopping is no error. */
  onError?: (error: HaikuqError) => void;
}

export interface UseChat extends ChatSnapshot {
  /**
   * Adds a user's message and has it answered. Resolves with the result once the answer is written, and with undefined
   * where it broke off (see `error`). An answer that is being written is stopped first. Rejects with `invalid-argument`
   * while there is no model.
   */
  send: (text: string) => Promise<GenerationResult | undefined>;
  /** Stops the answer that is being written; its text so far stays. */
  stop: () => void;
  /** Writes an answer anew (the last one without `id`), or answers a user's message anew; what came after it is dropped. */
  regenerate: (id?: string) => Promise<GenerationResult | undefined>;
  /** Changes a user's message, drops what came after it and has it answered. Other messages only change their text. */
  edit: (id: string, text: string) => Promise<GenerationResult | undefined>;
  /** Puts another conversation in place of this one; stops the answer that is being written. */
  setMessages: ChatSession['setMessages'];
  /** Back to the initial messages. */
  reset: () => void;
}

/**
 * A conversation as React state. Renders once a frame at most while an answer is written; the functions stay the same
 * from render to render. Unmounting stops the answer.
 */
export function useChat({ model, backend, options, initialMessages = [], onError }: UseChatOptions): UseChat {
  const answerer = backend ?? model;
  const [session] = useState(() => createChatSession(initialMessages, { backend: answerer, options, onError }));
  const snapshot = useSyncExternalStore(session.subscribe, session.snapshot, session.snapshot);

  useEffect(() => session.configure({ backend: answerer, options, onError }));
  useEffect(() => {
    // StrictMode closes and opens again.
    session.open();
    return session.close;
  }, [session]);

  const { send, stop, regenerate, edit, setMessages, reset } = session;
  return { ...snapshot, send, stop, regenerate, edit, setMessages, reset };
}
