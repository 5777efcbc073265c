/** Conversations in IndexedDB, and the folder that was opened last. */

import { openDB, type DBSchema, type IDBPDatabase } from 'idb';
import type { Conversation, ConversationSummary } from './conversation.ts';

interface Schema extends DBSchema {
  conversations: { key: string; value: Conversation; indexes: { updatedAt: number } };
  folders: { key: string; value: FileSystemDirectoryHandle };
}

export interface ConversationStore {
  /** Newest first. */
  list(): Promise<ConversationSummary[]>;
  get(id: string): Promise<Conversation | undefined>;
  /**
   * Writes what `change` makes of the stored conversation, and returns it; with `null` nothing is written. Other tabs
   * write before or after, not in between. The written conversation may have another id.
   */
  update(id: string, change: (stored: Conversation | undefined) => Conversation | null): Promise<Conversation | null>;
  remove(id: string): Promise<void>;
  /** Calls back with the id of a conversation that this page or another tab has written or removed. */
  onChange(listener: (id: string, here: boolean) => void): () => void;
}

let opened: Promise<IDBPDatabase<Schema>> | undefined;

function database(): Promise<IDBPDatabase<Schema>> {
  opened ??= openDB<Schema>('haikuq', 1, {
    upgrade(db) {
      db.createObjectStore('conversations', { keyPath: 'id' }).createIndex('updatedAt', 'updatedAt');
      db.createObjectStore('folders');
    },
    // A newer version of the app in another tab waits for this connection.
    blocking: (_current, _blocked, event) => (event.target as IDBDatabase).close(),
    terminated: () => (opened = undefined),
  });
  opened.catch(() => (opened = undefined));
  return opened;
}

export function conversationStore(): ConversationStore {
  const listeners = new Set<(id: string, here: boolean) => void>();
  const channel = new BroadcastChannel('haikuq.conversations');
  channel.onmessage = (event: MessageEvent<string>) => listeners.forEach((listener) => listener(event.data, false));
  const changed = (id: string) => {
    channel.postMessage(id);
    listeners.forEach((listener) => listener(id, true));
  };
  return {
    async list() {
      const all = await (await database()).getAllFromIndex('conversations', 'updatedAt');
      return all.reverse().map(({ id, title, updatedAt }) => ({ id, title, updatedAt }));
    },
    async get(id) {
      return (await database()).get('conversations', id);
    },
    async update(id, change) {
      const transaction = (await database()).transaction('conversations', 'readwrite');
      const written = change(await transaction.store.get(id));
      await Promise.all([written && transaction.store.put(written), transaction.done]);
      if (written) changed(written.id);
      return written;
    },
    async remove(id) {
      await (await database()).delete('conversations', id);
      changed(id);
    },
    onChange(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

export async function rememberFolder(folder: FileSystemDirectoryHandle): Promise<void> {
  await (await database()).put('folders', folder, 'last');
}

export async function rememberedFolder(): Promise<FileSystemDirectoryHandle | undefined> {
  return (await database()).get('folders', 'last');
}
