/** Endpoints that stream like the Anthropic Messages API and like OpenAI's chat completions do: real event streams. */

import type { IncomingMessage, ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

export interface CloudAnswer {
  /** Text of the answer, one event each. */
  pieces: string[];
  /** After so many pieces an error event ends the stream. */
  errorAfter?: number;
  /** After so many pieces the connection breaks. */
  breakAfter?: number;
  /** This status instead of a stream. */
  status?: number;
  /** Pause between events in milliseconds. */
  pauseMs?: number;
}

export interface CloudEndpoint {
  answer: CloudAnswer;
  /** Bodies of the requests so far. */
  asked: Record<string, unknown>[];
  /** How many connections the client has closed before the answer's end. */
  hungUp: number;
  handle: (request: IncomingMessage, response: ServerResponse) => void;
}

interface Protocol {
  begin: string[];
  piece: (text: string) => string;
  error: string;
  end: string[];
}

const event = (name: string, data: object) => `event: ${name}\ndata: ${JSON.stringify({ type: name, ...data })}\n\n`;
const data = (json: object) => `data: ${JSON.stringify(json)}\n\n`;
const chunk = (choice: object) =>
  data({ id: 'c', object: 'chat.completion.chunk', choices: [{ index: 0, finish_reason: null, ...choice }] });

const anthropic: Protocol = {
  begin: [
    event('message_start', { message: { id: 'm', role: 'assistant', content: [], usage: { input_tokens: 21, output_tokens: 1 } } }),
    event('content_block_start', { index: 0, content_block: { type: 'text', text: '' } }),
    event('ping', {}),
  ],
  piece: (text) => event('content_block_delta', { index: 0, delta: { type: 'text_delta', text } }),
  error: event('error', { error: { type: 'overloaded_error', message: 'Overloaded' } }),
  end: [
    event('content_block_stop', { index: 0 }),
    event('message_delta', { delta: { stop_reason: 'end_turn' }, usage: { output_tokens: 9 } }),
    event('message_stop', {}),
  ],
};

const openai: Protocol = {
  begin: [': a comment keeps the connection open\n\n', chunk({ delta: { role: 'assistant', content: '' } })],
  piece: (content) => chunk({ delta: { content } }),
  error: data({ error: { message: 'The server had an error', type: 'server_error' } }),
  end: [
    chunk({ delta: {}, finish_reason: 'stop' }),
    data({ id: 'c', object: 'chat.completion.chunk', choices: [], usage: { prompt_tokens: 21, completion_tokens: 9, total_tokens: 30 } }),
    'data: [DONE]\n\n',
  ],
};

export const anthropicEndpoint = () => endpoint(anthropic);
export const openaiEndpoint = () => endpoint(openai);

function endpoint(protocol: Protocol): CloudEndpoint {
  const self: CloudEndpoint = {
    answer: { pieces: [] },
    asked: [],
    hungUp: 0,
    handle: (request, response) => void stream(request, response),
  };

  async function stream(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body: Buffer[] = [];
    for await (const part of request as AsyncIterable<Buffer>) body.push(part);
    self.asked.push(JSON.parse(Buffer.concat(body).toString()) as Record<string, unknown>);
    const { pieces, errorAfter = Infinity, breakAfter = Infinity, status, pauseMs = 5 } = self.answer;
    response.on('close', () => (self.hungUp += response.writableEnded || response.errored ? 0 : 1));
    if (status !== undefined) {
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ error: { type: 'api_error', message: 'Internal server error' } }));
      return;
    }
    response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' });
    const last = Math.min(errorAfter, breakAfter);
    const events = [...protocol.begin, ...pieces.slice(0, last).map(protocol.piece)];
    if (errorAfter < Infinity) events.push(protocol.error);
    else if (breakAfter === Infinity) events.push(...protocol.end);
    for (const text of events) {
      // In two writes, so that events arrive torn apart, within characters too.
      const bytes = Buffer.from(text);
      for (const part of [bytes.subarray(0, bytes.length >> 1), bytes.subarray(bytes.length >> 1)]) {
        if (response.destroyed) return;
        response.write(part);
        await sleep(pauseMs);
      }
    }
    if (breakAfter < Infinity) response.destroy(new Error('broken on purpose'));
    else response.end();
  }
  return self;
}
