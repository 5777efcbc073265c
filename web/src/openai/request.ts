/** A request of OpenAI's shape: what it asks for, or which of its fields asks for what cannot be done. */

import { checkOption, invalid } from '../options.js';
import type { ChatOptions, Message, OpenAIRequest } from '../types.js';
import { toMessages } from './messages.js';

/** How this package calls the fields that it has; checked under the caller's name. */
const OPTIONS = {
  max_completion_tokens: 'maxTokens',
  max_tokens: 'maxTokens',
  temperature: 'temperature',
  top_p: 'topP',
  top_k: 'topK',
  min_p: 'minP',
  repetition_penalty: 'repetitionPenalty',
  stop: 'stop',
  response_format: 'responseFormat',
} as const satisfies Partial<Record<keyof OpenAIRequest, keyof ChatOptions>>;

type Neutral = [asksForNothing: (value: unknown) => boolean, expected: string];

const none = (what: string): Neutral => [() => false, `nothing: ${what}`];
const only = (...values: unknown[]): Neutral => [
  (value) => values.includes(value),
  values.map((value) => JSON.stringify(value)).join(' or '),
];
const empty = (what: string): Neutral => [(value) => Array.isArray(value) && value.length === 0, `an empty list: ${what}`];
const zeros = (value: unknown) => typeof value === 'object' && Object.values(value as object).every((bias) => bias === 0);
const texts = (value: unknown) => Array.isArray(value) && value.every((modality) => modality === 'text');

const CANNOT_CALL = 'the model cannot be held to calling functions';

/** Fields of OpenAI's API that would change the answer, and which of their values do not. */
const NEUTRAL: Record<string, Neutral> = {
  n: only(1),
  tools: empty(CANNOT_CALL),
  functions: empty(CANNOT_CALL),
  tool_choice: only('none', 'auto'),
  function_call: only('none', 'auto'),
  logit_bias: [zeros, 'no bias but 0'],
  logprobs: only(false),
  top_logprobs: only(0),
  frequency_penalty: only(0),
  presence_penalty: only(0),
  modalities: [texts, '["text"]'],
  reasoning_effort: only('medium'),
  verbosity: only('medium'),
  audio: none('the model writes text alone'),
  moderation: none('nothing here moderates'),
  web_search_options: none('nothing here searches'),
};

/** Fields that are read elsewhere, or say nothing about the answer. */
const PASSED_OVER = new Set([
  ...['messages', 'model', 'stream', 'stream_options', 'seed', 'metadata', 'parallel_tool_calls', 'prediction', 'prompt_cache_key'],
  ...['prompt_cache_options', 'prompt_cache_retention', 'safety_identifier', 'service_tier', 'store', 'user'],
]);

export interface Asked {
  messages: Message[];
  options: ChatOptions;
  includeUsage: boolean;
}

/** Throws `invalid-argument` with the field's name, as the caller wrote it, in the message and in `details.field`. */
export function readRequest(request: OpenAIRequest): Asked {
  if (typeof request !== 'object' || request === null) throw invalid('request', request, 'an object with messages');
  refuseWhatIsUnsupported(request);
  const messages = toMessages(request.messages);
  return { messages, options: toChatOptions(request), includeUsage: request.stream_options?.include_usage ?? false };
}

function refuseWhatIsUnsupported(request: OpenAIRequest): void {
  for (const [name, value] of Object.entries(request) as [string, unknown][]) {
    if (value === undefined || value === null || name in OPTIONS || PASSED_OVER.has(name)) continue;
    const [asksForNothing, expected] = NEUTRAL[name] ?? [isNothing, 'nothing: there is no such field'];
    if (!asksForNothing(value)) throw invalid(name, value, expected);
  }
}

/** Of a field that no one here knows. */
function isNothing(value: unknown): boolean {
  if (typeof value === 'object') return Object.keys(value as object).length === 0;
  return value === false || value === '';
}

function toChatOptions(request: OpenAIRequest): ChatOptions {
  const options: Record<string, unknown> = {};
  // `max_completion_tokens` comes first, being the newer one.
  for (const [theirs, ours] of Object.entries(OPTIONS) as [keyof typeof OPTIONS, (typeof OPTIONS)[keyof typeof OPTIONS]][]) {
    const value = request[theirs];
    if (value === undefined || value === null || (theirs === 'top_p' && value === 0)) continue;
    checkOption(ours, value, theirs);
    options[ours] ??= value;
  }
  // The likeliest token alone: a share of 0 leaves no other.
  if (request.top_p === 0) options.temperature = 0;
  const { seed } = request;
  if (seed !== undefined && seed !== null) {
    if (!Number.isSafeInteger(seed)) throw invalid('seed', seed, 'an integer');
    options.seed = seed < 0 ? 2 ** 53 + seed : seed;
  }
  return options;
}
