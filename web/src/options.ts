/** Options as they come from callers: checked, and without what is absent. */

import { HaikuqError } from './errors.js';
import type { EngineChat } from './engine/engine.js';
import { copyJson } from './numbers.js';
import type { ChatTemplateOptions, GenerateOptions, LoadOptions, Message } from './types.js';
import type { WriteOptions } from './worker/protocol.js';

type Check = (value: unknown) => boolean;

/** The engine's integers have 32 bits, but for the seed. */
const integer =
  (least: number, most = 2 ** 32 - 1): Check =>
  (value) =>
    Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most;
const number =
  (test: (value: number) => boolean): Check =>
  (value) =>
    typeof value === 'number' && Number.isFinite(value) && test(value);
const oneOf =
  (...values: unknown[]): Check =>
  (value) =>
    values.includes(value);
const isText: Check = (value) => typeof value === 'string';
const isStop: Check = (value) => (Array.isArray(value) ? value : [value]).every((text) => isText(text) && text !== '');
const isSignal: Check = (value) => value instanceof AbortSignal;
const isPins: Check = (value) => typeof value === 'object' && value !== null && Object.values(value).every(isText);
const isFunction: Check = (value) => typeof value === 'function';

type Rules = Record<string, [check: Check, expected: string]>;

const WRITING = {
  maxTokens: [integer(0), 'an integer, 0 or more'],
  temperature: [number((t) => t >= 0), '0 (greedy) or more'],
  topK: [integer(0), 'an integer, 0 (all) or more'],
  topP: [number((p) => p > 0 && p <= 1), 'more than 0 and at most 1'],
  minP: [number((p) => p >= 0 && p <= 1), '0 to 1'],
  repetitionPenalty: [number((r) => r > 0), 'more than 0 (1 is none)'],
  seed: [integer(0, Number.MAX_SAFE_INTEGER), 'an integer, 0 or more'],
  ignoreEos: [oneOf(true, false), 'true or false'],
} satisfies Rules;

const isFormat: Check = (value) => {
  if (typeof value !== 'object' || value === null) return false;
  const { type, regex, grammar, json_schema: schema } = value as Record<string, unknown>;
  if (type === 'regex') return isText(regex);
  if (type === 'grammar') return isText(grammar);
  if (type === 'json_schema') return typeof schema === 'object' && schema !== null && 'schema' in schema;
  return type === 'text' || type === 'json_object';
};

const CALL: Rules = {
  responseFormat: [
    isFormat,
    '{ type: "text" | "json_object" }, { type: "json_schema", json_schema: { schema } }, { type: "regex", regex } or { type: "grammar", grammar }',
  ],
  ...WRITING,
  stop: [isStop, 'texts that are not empty'],
  signal: [isSignal, 'an AbortSignal'],
  controlTokens: [oneOf(true, false), 'true or false'],
  overflow: [oneOf('trim', 'refuse'), '"trim" or "refuse"'],
  reserve: [integer(0), 'an integer, 0 or more'],
};

const isObject: Check = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
const isObjects: Check = (value) => Array.isArray(value) && value.every(isObject);

const TEMPLATE: Rules = {
  tools: [isObjects, 'a list of objects'],
  documents: [isObjects, 'a list of objects'],
  chatTemplateKwargs: [isObject, 'an object'],
  continueFinalMessage: [oneOf(true, false), 'true or false'],
};

const LOAD: Rules = {
  onProgress: [isFunction, 'a function'],
  onDeviceLost: [isFunction, 'a function'],
  signal: [isSignal, 'an AbortSignal'],
  cache: [oneOf('auto', 'opfs', 'cache-api', 'none'), '"auto", "opfs", "cache-api" or "none"'],
  headers: [(value) => isFunction(value) || (typeof value === 'object' && value !== null), 'an object or a function'],
  credentials: [oneOf('omit', 'same-origin', 'include'), '"omit", "same-origin" or "include"'],
  fetch: [isFunction, 'a function'],
  sha256Query: [oneOf(true, false), 'true or false'],
  contextSize: [integer(1), 'an integer, 1 or more'],
  kvCache: [oneOf('auto', 'f16', 'f32'), '"auto", "f16" or "f32"'],
  numerics: [oneOf('auto', 'exact', 'fast'), '"auto", "exact" or "fast"'],
  kernels: [oneOf('auto', 'table'), '"auto" or "table"'],
  worker: [(value) => typeof value === 'boolean' || isFunction(value), 'true, false or a function'],
  device: [(value) => typeof value === 'object' && value !== null, 'an object'],
};

const DEVICE: Rules = {
  powerPreference: [oneOf('low-power', 'high-performance'), '"low-power" or "high-performance"'],
  withoutF16: [oneOf(true, false), 'true or false'],
  withoutSubgroups: [oneOf(true, false), 'true or false'],
  defaultLimits: [oneOf(true, false), 'true or false'],
  pins: [isPins, 'an object that maps operations to kernels'],
};

/** Throws `invalid-argument`, naming the option and its value. */
export function checkLoadOptions(options: LoadOptions): void {
  check(options, LOAD);
  check(options.device ?? {}, DEVICE, 'device.');
}

/**
 * What the engine is told; throws `invalid-argument`. Where there is no seed, one is drawn, and the texts of a batch get
 * different ones.
 */
export function writeOptions(options: GenerateOptions): WriteOptions {
  check(options, CALL);
  const drawn = { seed: crypto.getRandomValues(new Uint32Array(1))[0], seedStep: 1 };
  const told: Record<string, unknown> = options.seed === undefined ? drawn : { seed: options.seed, seedStep: 0 };
  for (const name of Object.keys(WRITING) as (keyof typeof WRITING)[]) {
    if (options[name] !== undefined) told[name] = options[name];
  }
  const { responseFormat: format } = options;
  if (format !== undefined && format.type !== 'text') told.responseFormat = JSON.stringify(asJson('responseFormat', format));
  if (options.stop !== undefined) told.stop = [options.stop].flat();
  return told as unknown as WriteOptions;
}

/** Checks one option of a call; an error says `name`, which is what the caller calls it. */
export function checkOption(option: string, value: unknown, name: string): void {
  const [isValid, expected] = CALL[option] as Rules[string];
  if (!isValid(value)) throw invalid(name, value, expected);
}

/** What a template is given; throws `invalid-argument`. */
export function checkChat(messages: readonly Message[], options: ChatTemplateOptions): EngineChat {
  check(options, TEMPLATE);
  const checked = checkMessages(messages);
  const { tools, documents, chatTemplateKwargs, continueFinalMessage = checked.at(-1)?.role === 'assistant' } = options;
  return {
    messages: checked,
    continueFinalMessage,
    ...(tools ? { tools: asJson('tools', tools) } : {}),
    ...(documents ? { documents: asJson('documents', documents) } : {}),
    ...(chatTemplateKwargs ? { chatTemplateKwargs: asJson('chatTemplateKwargs', chatTemplateKwargs) } : {}),
  };
}

/** Copies what a template can use: what else callers keep in their messages may be no JSON. */
export function checkMessages(messages: readonly Message[]): Message[] {
  if (!Array.isArray(messages) || messages.length === 0) throw invalid('messages', messages, 'a list of at least one message');
  return messages.map((message: Partial<Message> | null, i) => {
    const { role, content, ...others } = message ?? {};
    if (typeof role !== 'string' || role === '') throw invalid(`messages[${i}].role`, role, '"system", "user" or "assistant"');
    // A message that only calls tools says nothing.
    const silent = (content === null || content === undefined) && Array.isArray(others.tool_calls);
    if (typeof content !== 'string' && !silent) throw invalid(`messages[${i}].content`, content, 'a text');
    checkFields(message as Message, `messages[${i}]`);
    return { ...jsonFields(`messages[${i}]`, others), role, content: content as string };
  });
}

/** Fields that OpenAI's shape has; those of other names are the template's own. */
const FIELDS = ['tool_calls', 'tool_call_id', 'name', 'reasoning_content'] as const;

function checkFields(message: Message, name: string): void {
  for (const field of FIELDS) {
    const value: unknown = message[field];
    if (value === undefined || value === null) continue;
    if (field === 'tool_calls' ? !Array.isArray(value) : typeof value !== 'string') {
      throw invalid(`${name}.${field}`, value, field === 'tool_calls' ? 'a list of calls' : 'a text');
    }
  }
}

function jsonFields(message: string, fields: Record<string, unknown>): Record<string, unknown> {
  const entries = Object.entries(fields).flatMap(([name, value]): [string, unknown][] => {
    try {
      const copy = ArrayBuffer.isView(value) ? undefined : copyJson(`${message}.${name}`, value);
      return copy === undefined ? [] : [[name, copy]];
    } catch (error) {
      // An integer that is too large.
      if (error instanceof HaikuqError) throw error;
      return [];
    }
  });
  return Object.fromEntries(entries);
}

function asJson<T>(name: string, value: T): T {
  try {
    return copyJson(name, value) as T;
  } catch (error) {
    if (error instanceof HaikuqError) throw error;
    throw new HaikuqError('invalid-argument', `${name} cannot be written as JSON: ${(error as Error).message}`, {}, { cause: error });
  }
}

export function checkText(name: string, value: unknown): string {
  if (typeof value !== 'string') throw invalid(name, value, 'a text');
  return value;
}

export function checkIds(name: string, value: unknown): Uint32Array {
  if (!(value instanceof Uint32Array)) throw invalid(name, value, 'a Uint32Array');
  return value;
}

export function checkCount(name: string, value: unknown, least = 0): number {
  if (!integer(least)(value)) throw invalid(name, value, `an integer, ${least} or more`);
  return value as number;
}

export function invalid(name: string, value: unknown, expected: string): HaikuqError {
  return new HaikuqError('invalid-argument', `${name} is ${show(value)}, expected ${expected}`, { field: name });
}

function check(options: object, rules: Rules, prefix = ''): void {
  if (typeof options !== 'object' || options === null) throw invalid('options', options, 'an object');
  for (const [name, [isValid, expected]] of Object.entries(rules)) {
    const value: unknown = (options as Record<string, unknown>)[name];
    if (value !== undefined && !isValid(value)) throw invalid(prefix + name, value, expected);
  }
}

function show(value: unknown): string {
  if (typeof value === 'number' || typeof value === 'function') return String(value).slice(0, 60);
  return (JSON.stringify(value) ?? String(value)).slice(0, 60);
}
