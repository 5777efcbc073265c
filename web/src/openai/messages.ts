/** OpenAI's messages as this package has them: parts become text, and content that no text model can read is refused by its name. */

import { HaikuqError } from '../errors.js';
import { parseNumbers } from '../numbers.js';
import { invalid } from '../options.js';
import type { Message } from '../types.js';

const ROLES = '"developer", "system", "user", "assistant" or "tool"';

/** Throws `invalid-argument`, naming the field as the caller has it: `messages[2].content[1].image_url`. */
export function toMessages(messages: unknown): Message[] {
  if (!Array.isArray(messages) || messages.length === 0) throw invalid('messages', messages, 'a list of at least one message');
  return messages.map((message: unknown, i) => toMessage(message, `messages[${i}]`));
}

function toMessage(value: unknown, name: string): Message {
  if (!isObject(value)) throw invalid(name, value, 'an object with role and content');
  const { role, content, audio, function_call, refusal, tool_calls } = value;
  if (typeof role !== 'string' || role === '') throw invalid(`${name}.role`, role, ROLES);
  if (isThere(audio)) throw invalid(`${name}.audio`, audio, 'nothing: the model reads text alone');
  if (isThere(function_call)) throw invalid(`${name}.function_call`, function_call, 'nothing: OpenAI replaced it by tool_calls');
  const calls = toToolCalls(tool_calls, `${name}.tool_calls`);
  const said = content ?? refusal;
  // Templates tell a message that only calls functions from one that says nothing.
  const silent = calls.length > 0 && !isThere(said);
  const message: Message = { role, content: silent ? (null as unknown as string) : toText(said, `${name}.content`, role) };
  if (calls.length > 0) message.tool_calls = calls;
  for (const field of ['name', 'tool_call_id', 'reasoning_content'] as const) {
    const given = value[field];
    if (!isThere(given)) continue;
    if (typeof given !== 'string') throw invalid(`${name}.${field}`, given, 'a text');
    message[field] = given;
  }
  return message;
}

/** Only an assistant may say nothing: it may have called functions instead. */
function toText(content: unknown, name: string, role: string): string {
  if (typeof content === 'string') return content;
  if (!isThere(content) && role === 'assistant') return '';
  if (!Array.isArray(content)) throw invalid(name, content, 'a text or a list of parts');
  return content.map((part: unknown, i) => toPartText(part, `${name}[${i}]`)).join('');
}

function toPartText(part: unknown, name: string): string {
  if (!isObject(part)) throw invalid(name, part, 'a part such as { type: "text", text }');
  const { type } = part;
  if (type !== 'text' && type !== 'refusal') {
    // An image's own field (`image_url`, `input_audio`, `file`) has the name of its type.
    const own = typeof type === 'string' && type in part ? type : 'type';
    throw invalid(`${name}.${own}`, part[own], 'a part of type "text": the model reads text alone');
  }
  const text = part[type];
  if (typeof text !== 'string') throw invalid(`${name}.${type}`, text, 'a text');
  return text;
}

/** Templates want the arguments as an object; OpenAI has them as JSON. */
function toToolCalls(calls: unknown, name: string): object[] {
  if (!isThere(calls)) return [];
  if (!Array.isArray(calls)) throw invalid(name, calls, 'a list of calls');
  return calls.map((call: unknown, i) => {
    const at = `${name}[${i}]`;
    if (!isObject(call)) throw invalid(at, call, 'a call such as { id, type: "function", function }');
    const { function: called, type = 'function' } = call;
    if (type !== 'function') throw invalid(`${at}.type`, type, '"function"');
    if (!isObject(called) || typeof called.name !== 'string') throw invalid(`${at}.function`, called, 'an object with name and arguments');
    return { ...call, type, function: { ...called, arguments: toArguments(`${at}.function.arguments`, called.arguments) } };
  });
}

/** Arguments that are no JSON object are left to the template as they are: models write such too. */
function toArguments(name: string, json: unknown): unknown {
  if (json === undefined || json === null || json === '') return {};
  if (typeof json !== 'string') return json;
  try {
    const parsed = parseNumbers(name, json);
    return isObject(parsed) ? parsed : json;
  } catch (error) {
    if (error instanceof HaikuqError) throw error;
    return json;
  }
}

function isThere(value: unknown): boolean {
  return value !== undefined && value !== null;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
