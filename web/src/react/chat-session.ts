/**
 * A conversation and the answer that is being written to it, as a store that React (or anything) can subscribe to.
 *
 * Text arrives faster than a screen shows it. Subscribers are told at most once a frame while an answer is written.
 */

import { HaikuqError } from '../errors.js';
import { toHaikuqError } from '../failures.js';
import type { ChatBackend, ChatOptions, GenerationResult, Message, TextStream } from '../types.js';

/** `waiting` for its first text, being written (`streaming`), whole (`done`), stopped, or broken off. */
export type ChatMessageStatus = 'waiting' | 'streaming' | 'done' | 'cancelled' | 'error';

export interface ChatMessage extends Message {
  /** Unique in the conversation; stays through edits. */
  id: string;
  status: ChatMessageStatus;
  /** Of an answer that ended well or was stopped. */
  result?: GenerationResult;
  /** Of an answer that broke off. */
  error?: HaikuqError;
}

/** A message to put into a conversation; absent fields are made up. */
export type NewMessage = Message & Partial<ChatMessage>;

/** `idle`: nothing goes on; `error`: nothing goes on, and the last answer broke off. */
export type ChatStatus = 'idle' | 'waiting' | 'streaming' | 'error';

/** Replaced, never changed: equal snapshots are the same object. */
export interface ChatSnapshot {
  messages: readonly ChatMessage[];
  status: ChatStatus;
  error: HaikuqError | undefined;
  /** Of the newest answer that ended well or was stopped. */
  lastResult: GenerationResult | undefined;
}

export interface ChatSessionOptions {
  backend: ChatBackend | null | undefined;
  options?: ChatOptions | undefined;
  onError?: ((error: HaikuqError) => void) | undefined;
}

export interface ChatSession {
  subscribe(onChange: () => void): () => void;
  snapshot(): ChatSnapshot;
  /** Holds from the next answer on. */
  configure(options: ChatSessionOptions): void;
  send(text: string): Promise<GenerationResult | undefined>;
  regenerate(id?: string): Promise<GenerationResult | undefined>;
  edit(id: string, text: string): Promise<GenerationResult | undefined>;
  setMessages(messages: readonly NewMessage[] | ((messages: readonly ChatMessage[]) => readonly NewMessage[])): void;
  reset(): void;
  stop(): void;
  /** Stops, and ignores calls until `open`. */
  close(): void;
  open(): void;
}

/** The answer that is being written. */
interface Answering {
  id: string;
  abort: () => void;
  /** Written, and not in the snapshot yet. */
  unshown: string;
  cancelFrame: (() => void) | undefined;
}

export function createChatSession(initialMessages: readonly NewMessage[], initialOptions: ChatSessionOptions): ChatSession {
  // Numbers rather than random ids: a server and the page that takes over from it must agree.
  const initial = initialMessages.map((message, index) => filledIn(message, () => `initial-${index}`));
  const subscribers = new Set<() => void>();
  let options = initialOptions;
  let closed = false;
  let answering: Answering | undefined;
  let current: ChatSnapshot = { messages: initial, status: 'idle', error: undefined, lastResult: undefined };

  function publish(change: Partial<ChatSnapshot>) {
    current = { ...current, ...change };
    for (const onChange of subscribers) onChange();
  }

  function changed(id: string, change: (message: ChatMessage) => ChatMessage): readonly ChatMessage[] {
    return current.messages.map((message) => (message.id === id ? change(message) : message));
  }

  function take(text: string, answer: Answering) {
    answer.unshown += text;
    answer.cancelFrame ??= onNextFrame(() => {
      answer.cancelFrame = undefined;
      publish({
        status: 'streaming',
        messages: changed(answer.id, (message) => shown(message, answer, { status: 'streaming' })),
      });
    });
  }

  /** Has the conversation that `change` makes of the present one answered. */
  async function answer(change: (messages: readonly ChatMessage[]) => readonly ChatMessage[]): Promise<GenerationResult | undefined> {
    const { backend, options: chatOptions, onError } = options;
    if (!backend) throw new HaikuqError('invalid-argument', 'useChat: there is no model yet');
    // First, for what was written until now belongs to the conversation.
    stop();
    const messages = change(current.messages);
    const id = newId();
    const reply: ChatMessage = { id, role: 'assistant', content: '', status: 'waiting' };
    const own: Answering = { id, abort: () => {}, unshown: '', cancelFrame: undefined };
    answering = own;
    publish({ messages: [...messages, reply], status: 'waiting', error: undefined });
    let stream: TextStream | undefined;
    try {
      stream = backend.chat(
        messages.map(({ role, content }) => ({ role, content })),
        chatOptions,
      );
      own.abort = () => stream?.abort();
      // A listener may have stopped it as soon as it was told of the message.
      if (answering !== own) stream.abort();
      // What comes after a stop belongs to nobody: `stop` has shown the text until then.
      for await (const text of stream) if (answering === own) take(text, own);
      return settle(own, await stream.result);
    } catch (thrown) {
      const error = toHaikuqError(thrown);
      // By the signal among the options, say; as good as `stop`.
      if (error.code === 'aborted') return settle(own, await stream?.result.catch(() => undefined));
      if (fail(own, error)) onError?.(error);
      return undefined;
    }
  }

  function settle(own: Answering, result: GenerationResult | undefined): GenerationResult | undefined {
    const extra = result ? { result } : {};
    const status = !result || result.finish === 'cancelled' ? 'cancelled' : 'done';
    if (answering === own) {
      answering = undefined;
      own.cancelFrame?.();
      publish({
        messages: changed(own.id, (message) => shown(message, own, { status, ...extra })),
        status: 'idle',
        lastResult: result ?? current.lastResult,
      });
    } else if (result && current.messages.some(({ id }) => id === own.id)) {
      // Stopped before: its message is as it should be, only the numbers are news.
      publish({ messages: changed(own.id, (message) => ({ ...message, result })), lastResult: result });
    }
    return result;
  }

  /** Whether to tell anybody: a caller that stopped an answer does not care how it ends. */
  function fail(own: Answering, error: HaikuqError): boolean {
    if (answering !== own) return false;
    answering = undefined;
    own.cancelFrame?.();
    publish({ messages: changed(own.id, (message) => shown(message, own, { status: 'error', error })), status: 'error', error });
    return true;
  }

  function stop() {
    const own = answering;
    if (!own) return;
    answering = undefined;
    own.cancelFrame?.();
    publish({ messages: changed(own.id, (message) => shown(message, own, { status: 'cancelled' })), status: 'idle' });
    own.abort();
  }

  function indexOf(id: string, caller: string): number {
    const index = current.messages.findIndex((message) => message.id === id);
    if (index < 0) throw new HaikuqError('invalid-argument', `${caller}: there is no message ${id}`);
    return index;
  }

  return {
    subscribe(onChange) {
      subscribers.add(onChange);
      return () => subscribers.delete(onChange);
    },
    snapshot: () => current,
    configure(next) {
      options = next;
    },
    async send(text) {
      if (closed) return undefined;
      return answer((messages) => [...messages, { id: newId(), role: 'user', content: text, status: 'done' }]);
    },
    async regenerate(id) {
      if (closed) return undefined;
      const index = id === undefined ? current.messages.length - 1 : indexOf(id, 'regenerate');
      // An answer is written anew; any other message is answered anew.
      const kept = current.messages[index]?.role === 'assistant' ? index : index + 1;
      if (kept === 0) throw new HaikuqError('invalid-argument', 'regenerate: there is nothing to answer');
      return answer((messages) => messages.slice(0, kept));
    },
    async edit(id, text) {
      if (closed) return undefined;
      const index = indexOf(id, 'edit');
      if (current.messages[index]?.role === 'user') {
        return answer((messages) =>
          messages.slice(0, index + 1).map((message) => (message.id === id ? { ...message, content: text } : message)),
        );
      }
      if (answering?.id === id) stop();
      publish({ messages: changed(id, (message) => ({ ...message, content: text })) });
      return undefined;
    },
    setMessages(messages) {
      stop();
      const next = typeof messages === 'function' ? messages(current.messages) : messages;
      publish({ messages: next.map((message) => filledIn(message, newId)), status: 'idle', error: undefined });
    },
    reset() {
      stop();
      publish({ messages: initial, status: 'idle', error: undefined, lastResult: undefined });
    },
    stop,
    close() {
      closed = true;
      stop();
    },
    open() {
      closed = false;
    },
  };
}

function shown(message: ChatMessage, answer: Answering, change: Partial<ChatMessage>): ChatMessage {
  const { unshown } = answer;
  answer.unshown = '';
  return { ...message, content: message.content + unshown, ...change };
}

function filledIn(message: NewMessage, makeId: () => string): ChatMessage {
  return { ...message, id: message.id ?? makeId(), status: message.status ?? 'done' };
}

function newId(): string {
  // `randomUUID` is missing on pages without TLS.
  return globalThis.crypto?.randomUUID?.() ?? `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
}

/** Where there are no frames, on a server or in a test, a timer of about their length. */
function onNextFrame(show: () => void): () => void {
  if (typeof requestAnimationFrame === 'function') {
    const frame = requestAnimationFrame(show);
    return () => cancelAnimationFrame(frame);
  }
  const timer = setTimeout(show, 16);
  return () => clearTimeout(timer);
}
