/** Chat completions as OpenAI's API and those that imitate it stream them, from an endpoint of the site's own. */

import { writeNumbers } from '../numbers.js';
import type { ChatBackend, ChatOptions, FinishReason, Message } from '../types.js';
import { type Answer, cloudBackend, count, stopList } from './cloud.js';
import type { EndpointOptions } from './endpoint.js';
import { isRecord } from './request.js';

export interface OpenAICompatibleOptions extends EndpointOptions {
  /**
   * The field that limits the answer. `max_tokens` (default) is what compatible servers know; OpenAI's reasoning models
   * want `max_completion_tokens`.
   */
  maxTokensField?: 'max_tokens' | 'max_completion_tokens';
}

/**
 * Answers from an endpoint that speaks OpenAI's chat completions and streams its events.
 *
 * `temperature`, `topP`, `seed`, `responseFormat` and `stop` are passed on where the call gives them. Servers that know `top_k` and the
 * like get them by the option `body`. Servers that refuse `stream_options`: `body: { stream_options: undefined }`; the
 * result's token counts are then 0. Finish reasons that haikuq has no name for (`content_filter`, `tool_calls`, …)
 * finish with `stop`.
 *
 * @throws `HaikuqError` `invalid-argument` for options out of range, a provider's own host, or a secret key.
 */
export function openaiCompatible(options: OpenAICompatibleOptions): ChatBackend {
  return cloudBackend(options, {
    name: 'openaiCompatible',
    body: (messages, chatOptions) => requestBody(options, messages, chatOptions),
    read: readChunk,
  });
}

function requestBody(options: OpenAICompatibleOptions, messages: readonly Message[], chatOptions: ChatOptions): Record<string, unknown> {
  const stops = stopList(chatOptions.stop);
  return {
    model: options.model,
    messages: messages.map(({ role, content, name, tool_calls, tool_call_id }) => ({
      role,
      content,
      name,
      tool_calls: tool_calls?.map(withJsonArguments),
      tool_call_id,
    })),
    stream: true,
    stream_options: { include_usage: true },
    // Absent fields are undefined, which JSON leaves out.
    [options.maxTokensField ?? 'max_tokens']: chatOptions.maxTokens ?? options.maxTokens,
    temperature: chatOptions.temperature,
    top_p: chatOptions.topP,
    seed: chatOptions.seed,
    response_format: chatOptions.responseFormat,
    stop: stops.length === 0 ? undefined : stops,
  };
}

/** OpenAI has the arguments of a call as JSON, and templates as an object. */
function withJsonArguments(call: object): object {
  const called: unknown = 'function' in call ? call.function : undefined;
  if (!isRecord(called) || called.arguments === undefined || typeof called.arguments === 'string') return call;
  return { ...call, function: { ...called, arguments: writeNumbers(called.arguments) } };
}

function readChunk(chunk: Record<string, unknown>, answer: Answer): string {
  if (isRecord(chunk.usage)) {
    const details = chunk.usage.prompt_tokens_details;
    answer.usage = {
      promptTokens: count(chunk.usage.prompt_tokens),
      reusedTokens: isRecord(details) ? count(details.cached_tokens) : 0,
      completionTokens: count(chunk.usage.completion_tokens),
    };
  }
  // The chunk with the usage has no choices.
  const choice: unknown = Array.isArray(chunk.choices) ? chunk.choices[0] : undefined;
  if (!isRecord(choice)) return '';
  if (typeof choice.finish_reason === 'string') answer.finish = finishReason(choice.finish_reason);
  if (!isRecord(choice.delta)) return '';
  const { content, refusal } = choice.delta;
  // A refusal is the model's answer too, in a field of its own.
  return typeof content === 'string' ? content : typeof refusal === 'string' ? refusal : '';
}

function finishReason(reason: string): FinishReason {
  return reason === 'length' ? 'length' : 'stop';
}
