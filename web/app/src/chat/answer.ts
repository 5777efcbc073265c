/** One answer of a model to a conversation. */

import { HaikuqError, type Model } from 'haikuq';
import { answerOf, documentOf, messagesOf, type AssistantTurn, type Conversation } from '../data/conversation.ts';
import { generationOptions, type Settings } from '../data/settings.ts';

/**
 * Asks for an answer and hands over its text so far as it grows. Aborting ends it early; a failure becomes part of the
 * answer, beside what was written until then. Never rejects.
 */
export async function writeAnswer(
  model: Model,
  conversation: Conversation,
  settings: Settings,
  signal: AbortSignal,
  onText: (text: string) => void,
): Promise<AssistantTurn> {
  let text = '';
  try {
    const options = generationOptions(settings);
    const stream = model.info.hasChatTemplate
      ? model.chat(messagesOf(conversation, settings.system), options)
      : model.generate(documentOf(conversation), options);
    // The same failure comes out of the loop below; without this it would also be reported as unhandled.
    stream.result.catch(() => undefined);
    const abort = () => stream.abort();
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
    for await (const piece of stream) {
      text += piece;
      onText(text);
    }
    return answerOf(await stream.result, model.info.name);
  } catch (error) {
    const id = crypto.randomUUID();
    if (signal.aborted || (error instanceof HaikuqError && error.code === 'aborted')) {
      return { role: 'assistant', id, text, model: model.info.name, finish: 'cancelled' };
    }
    const { code, message } =
      error instanceof HaikuqError ? error : { code: 'internal' as const, message: String((error as Error)?.message ?? error) };
    return { role: 'assistant', id, text, model: model.info.name, error: { code, message } };
  }
}
