/** What the cloud adapters share: from the events of one protocol to a text stream. */

import { HaikuqError } from '../errors.js';
import type { ChatBackend, ChatOptions, FinishReason, GenerationResult, Message, Usage } from '../types.js';
import { checkEndpoint, type EndpointOptions } from './endpoint.js';
import { apiError, isRecord, postForEvents } from './request.js';
import { makeTextStream, plainResult, stopwatch } from './stream.js';

/** An answer as far as its events have told. */
export interface Answer {
  finish: FinishReason | undefined;
  usage: Usage;
  /** The event that ends the protocol's stream came. */
  done: boolean;
}

export interface Protocol {
  /** For messages about options. */
  name: string;
  /** The request's body. Throws `invalid-argument` for messages that the API has no form for. */
  body(messages: readonly Message[], options: ChatOptions): Record<string, unknown>;
  /** Takes one event's data into `answer`; returns the text in it. */
  read(event: Record<string, unknown>, answer: Answer): string;
}

/** The data of an event that is no JSON but the end; OpenAI's. */
const END_MARK = '[DONE]';

export function cloudBackend(options: EndpointOptions, protocol: Protocol): ChatBackend {
  checkEndpoint(protocol.name, options);
  return {
    chat: (messages, chatOptions = {}) =>
      makeTextStream((emit, signal) => complete(options, protocol, messages, chatOptions, emit, signal), chatOptions.signal),
  };
}

async function complete(
  options: EndpointOptions,
  protocol: Protocol,
  messages: readonly Message[],
  chatOptions: ChatOptions,
  emit: (text: string) => void,
  signal: AbortSignal,
): Promise<GenerationResult> {
  checkMessages(protocol.name, messages);
  if (chatOptions.tools)
    throw new HaikuqError(
      'invalid-argument',
      `${protocol.name}: tools are for the local model alone; give the endpoint its own by \`body\``,
    );
  const body = { ...protocol.body(messages, chatOptions), ...options.body };
  const watch = stopwatch();
  const answer: Answer = {
    finish: undefined,
    usage: { promptTokens: 0, reusedTokens: 0, completionTokens: 0 },
    done: false,
  };
  let text = '';
  const result = (finish: FinishReason) => plainResult('cloud', text, finish, watch.timings(answer.usage.completionTokens), answer.usage);

  if (signal.aborted) return result('cancelled');
  try {
    for await (const { data } of postForEvents(protocol.name, options, body, signal)) {
      const piece = data.trim() === END_MARK ? end(answer) : protocol.read(parseEvent(data, options), answer);
      if (piece !== '') {
        watch.mark();
        text += piece;
        emit(piece);
      }
      if (answer.done) break;
    }
  } catch (error) {
    if (signal.aborted) return result('cancelled');
    throw error;
  }
  // Some servers close without the ending event once they have said why the text ended.
  if (!answer.done && answer.finish === undefined) {
    throw new HaikuqError('network', `${options.endpoint} hung up before the answer was complete`, { file: String(options.endpoint) });
  }
  return result(answer.finish ?? 'stop');
}

function end(answer: Answer): string {
  answer.done = true;
  return '';
}

function parseEvent(data: string, options: EndpointOptions): Record<string, unknown> {
  let json: unknown;
  try {
    json = JSON.parse(data);
  } catch (error) {
    throw new HaikuqError(
      'cloud',
      `${options.endpoint} sent an event that is no JSON`,
      { file: String(options.endpoint) },
      { cause: error },
    );
  }
  const failure = apiError(json);
  if (failure) throw new HaikuqError(failure.code, failure.message, { file: String(options.endpoint) });
  if (!isRecord(json))
    throw new HaikuqError('cloud', `${options.endpoint} sent an event that is no object`, { file: String(options.endpoint) });
  return json;
}

function checkMessages(name: string, messages: readonly Message[]): void {
  if (messages.length === 0) throw new HaikuqError('invalid-argument', `${name}: there are no messages`);
  for (const [index, message] of messages.entries()) {
    // A message that only calls tools says nothing.
    const silent = (message?.content ?? null) === null && Array.isArray(message?.tool_calls);
    if (typeof message?.role !== 'string' || (typeof message.content !== 'string' && !silent)) {
      throw new HaikuqError('invalid-argument', `${name}: message ${index} needs a role and a content, both text`);
    }
  }
}

/** A stop option as a list. */
export function stopList(stop: string | string[] | undefined): string[] {
  return stop === undefined ? [] : typeof stop === 'string' ? [stop] : stop;
}

/** A count in an API's JSON; 0 where it is absent. */
export function count(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) ? value : 0;
}
