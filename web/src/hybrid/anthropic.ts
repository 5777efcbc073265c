/** The Anthropic Messages API, from an endpoint of the site's own. */

import { HaikuqError } from '../errors.js';
import type { ChatBackend, ChatOptions, FinishReason, Message } from '../types.js';
import { type Answer, cloudBackend, count, stopList } from './cloud.js';
import type { EndpointOptions } from './endpoint.js';
import { isRecord } from './request.js';

export interface AnthropicOptions extends EndpointOptions {
  /** Tokens of an answer, at most, where the call's options say nothing; the API demands a number. */
  maxTokens: number;
  /** Instructions that come before the conversation's own system messages. */
  system?: string;
}

/** The API wants the user to open the conversation; this stands in where the assistant did, with a greeting say. */
const OPENING: AnthropicMessage = { role: 'user', content: '(The assistant opens the conversation.)' };

interface AnthropicMessage {
  role: 'user' | 'assistant';
  content: string;
}

/**
 * Answers from an endpoint that speaks the Anthropic Messages API and streams its events.
 *
 * System messages, wherever they stand, become the request's `system`. Messages without text are left out and
 * neighbours of one role become one message, since the API wants filled, alternating turns. `temperature` (1 at most),
 * `topK`, `topP` and `stop` are passed on where the call gives them; the API has no equal of the other options.
 * Stop reasons that haikuq has no name for (`refusal`, `tool_use`, …) finish with `stop`.
 *
 * @throws `HaikuqError` `invalid-argument` for options out of range, a provider's own host, or a secret key.
 */
export function anthropicMessages(options: AnthropicOptions): ChatBackend {
  if (options.maxTokens === undefined) throw new HaikuqError('invalid-argument', 'anthropicMessages: maxTokens is missing');
  return cloudBackend(options, {
    name: 'anthropicMessages',
    body: (messages, chatOptions) => requestBody(options, messages, chatOptions),
    read: readEvent,
  });
}

function requestBody(options: AnthropicOptions, messages: readonly Message[], chatOptions: ChatOptions): Record<string, unknown> {
  const { system, turns } = splitSystem(options.system, messages);
  const stops = stopList(chatOptions.stop);
  if (chatOptions.responseFormat && chatOptions.responseFormat.type !== 'text') {
    throw new HaikuqError('invalid-argument', 'responseFormat: the API holds no answer to a format', { field: 'responseFormat' });
  }
  return {
    model: options.model,
    max_tokens: chatOptions.maxTokens ?? options.maxTokens,
    ...(system === '' ? {} : { system }),
    messages: turns,
    stream: true,
    ...(chatOptions.temperature === undefined ? {} : { temperature: Math.min(chatOptions.temperature, 1) }),
    // For haikuq 0 and 1 switch these off; the API leaves them off where they are absent.
    ...(chatOptions.topK ? { top_k: chatOptions.topK } : {}),
    ...(chatOptions.topP === undefined || chatOptions.topP >= 1 ? {} : { top_p: chatOptions.topP }),
    ...(stops.length === 0 ? {} : { stop_sequences: stops }),
  };
}

function splitSystem(first: string | undefined, messages: readonly Message[]): { system: string; turns: AnthropicMessage[] } {
  const system = first ? [first] : [];
  const turns: AnthropicMessage[] = [];
  for (const [index, { role, content, tool_calls }] of messages.entries()) {
    if (tool_calls?.length) throw new HaikuqError('invalid-argument', `anthropicMessages: messages[${index}].tool_calls cannot be sent`);
    if (content.trim() === '') continue;
    if (role === 'system' || role === 'developer') {
      system.push(content);
      continue;
    }
    if (!isTurn(role)) {
      throw new HaikuqError('invalid-argument', `anthropicMessages: message ${index} has the role ${role}; the API has none for it`);
    }
    const previous = turns.at(-1);
    if (previous?.role === role) previous.content += `\n\n${content}`;
    else turns.push({ role, content });
  }
  if (turns.length === 0) {
    throw new HaikuqError('invalid-argument', 'anthropicMessages: no message of the user or the assistant has any text');
  }
  if (turns[0]?.role === 'assistant') turns.unshift(OPENING);
  return { system: system.join('\n\n'), turns };
}

function isTurn(role: string): role is AnthropicMessage['role'] {
  return role === 'user' || role === 'assistant';
}

/** Events of other types (`ping`, `content_block_start`, ones yet to come) carry nothing that is needed. */
function readEvent(event: Record<string, unknown>, answer: Answer): string {
  const delta = isRecord(event.delta) ? event.delta : {};
  switch (event.type) {
    case 'message_start':
      if (isRecord(event.message)) readUsage(event.message.usage, answer);
      return '';
    case 'content_block_delta':
      return delta.type === 'text_delta' && typeof delta.text === 'string' ? delta.text : '';
    case 'message_delta':
      if (typeof delta.stop_reason === 'string') answer.finish = finishReason(delta.stop_reason);
      readUsage(event.usage, answer);
      return '';
    case 'message_stop':
      answer.done = true;
      return '';
    default:
      return '';
  }
}

/** Counts are cumulative; an event repeats only some of them. */
function readUsage(usage: unknown, answer: Answer): void {
  if (!isRecord(usage)) return;
  if (usage.input_tokens !== undefined && usage.input_tokens !== null) {
    answer.usage.reusedTokens = count(usage.cache_read_input_tokens);
    answer.usage.promptTokens = count(usage.input_tokens) + answer.usage.reusedTokens + count(usage.cache_creation_input_tokens);
  }
  if (usage.output_tokens !== undefined) answer.usage.completionTokens = count(usage.output_tokens);
}

function finishReason(stopReason: string): FinishReason {
  if (stopReason === 'max_tokens') return 'length';
  return stopReason === 'model_context_window_exceeded' ? 'context' : 'stop';
}
