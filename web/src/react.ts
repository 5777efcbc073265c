/** `haikuq/react`: hooks for React 18 and later. */

import { type UseModel, useModelOf } from './react/use-model.js';
import type { LoadOptions, Model, PackageLocation } from './types.js';

export type { ChatMessage, ChatMessageStatus, ChatStatus, NewMessage } from './react/chat-session.js';
export { useChat, type UseChat, type UseChatOptions } from './react/use-chat.js';
export type { ModelStatus, UseModel } from './react/use-model.js';

/**
 * Loads a package, and frees it when the component unmounts or the location changes. Without a location nothing is
 * loaded. The options are those of the moment when loading starts; a change of them alone loads nothing again.
 */
export function useModel(location: PackageLocation | null | undefined, options?: LoadOptions): UseModel {
  return useModelOf(loadWhenNeeded, location, options);
}

/** The runtime is fetched with the first model, not with the page. */
async function loadWhenNeeded(location: PackageLocation, options: LoadOptions): Promise<Model> {
  const { load } = await import('./index.js');
  return load(location, options);
}
