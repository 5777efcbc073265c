/// <reference types="node" />
/** A real HTTP server for tests, whose answers are cut where a test wants them to be. */

import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { onTestFinished } from 'vitest';

export interface Received {
  path: string;
  headers: IncomingHttpHeaders;
  // biome-ignore lint/suspicious/noExplicitAny: whatever JSON a test expects
  body: any;
}

export interface EventServer {
  url: string;
  received: Received[];
}

/** Starts a server that stops with the test. The handlers answer the requests in turn; the last one all that follow. */
export async function eventServer(...handlers: ((response: ServerResponse, request: Received) => unknown)[]): Promise<EventServer> {
  const received: Received[] = [];
  const server = createServer(async (request, response) => {
    let text = '';
    request.setEncoding('utf8');
    for await (const piece of request) text += piece;
    const one = { path: request.url ?? '', headers: request.headers, body: text === '' ? undefined : JSON.parse(text) };
    received.push(one);
    await handlers[Math.min(received.length, handlers.length) - 1]?.(response, one);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, received };
}

/** Sends `text` as an event stream in chunks of `size` bytes, wherever that cuts, and leaves the response open. */
export async function writeEvents(response: ServerResponse, text: string, size = 7): Promise<void> {
  if (!response.headersSent) response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
  const bytes = Buffer.from(text);
  for (let start = 0; start < bytes.length; start += size) {
    response.write(bytes.subarray(start, start + size));
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** A handler that sends all of `text` as an event stream. */
export function events(text: string, size?: number) {
  return async (response: ServerResponse) => {
    await writeEvents(response, text, size);
    response.end();
  };
}

/** A handler that sends `text` as an event stream and hangs up in the midst of it. */
export function hangUpAfter(text: string) {
  return async (response: ServerResponse) => {
    await writeEvents(response, text);
    response.destroy();
  };
}

/** A handler that answers with a status and a JSON body. */
export function json(status: number, body: unknown, headers: Record<string, string> = {}) {
  return (response: ServerResponse) => {
    response.writeHead(status, { 'content-type': 'application/json', ...headers });
    response.end(JSON.stringify(body));
  };
}

/** The events of the Anthropic Messages API for a text in pieces. */
export function anthropicEvents(pieces: string[], { stopReason = 'end_turn', end = true } = {}): string {
  const all: Record<string, unknown>[] = [
    {
      type: 'message_start',
      message: {
        id: 'msg_1',
        type: 'message',
        role: 'assistant',
        content: [],
        model: 'm',
        stop_reason: null,
        stop_sequence: null,
        usage: { input_tokens: 9, cache_creation_input_tokens: 3, cache_read_input_tokens: 20, output_tokens: 1 },
      },
    },
    { type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } },
    { type: 'ping' },
    ...pieces.map((text) => ({ type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text } })),
  ];
  if (end) {
    all.push(
      { type: 'content_block_stop', index: 0 },
      { type: 'message_delta', delta: { stop_reason: stopReason, stop_sequence: null }, usage: { output_tokens: 12 } },
      { type: 'message_stop' },
    );
  }
  return all.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join('');
}

/** The events of OpenAI's chat completions for a text in pieces. */
export function openaiEvents(pieces: string[], { finishReason = 'stop', end = true, usage = true } = {}): string {
  const chunk = (choice: unknown, counts: unknown = null) => ({
    id: 'c1',
    object: 'chat.completion.chunk',
    created: 1,
    model: 'm',
    choices: choice === undefined ? [] : [choice],
    usage: counts,
  });
  const all: unknown[] = [
    chunk({ index: 0, delta: { role: 'assistant', content: '' }, finish_reason: null }),
    ...pieces.map((content) => chunk({ index: 0, delta: { content }, finish_reason: null })),
  ];
  if (end) all.push(chunk({ index: 0, delta: {}, finish_reason: finishReason }));
  if (end && usage) {
    all.push(chunk(undefined, { prompt_tokens: 30, completion_tokens: 5, total_tokens: 35, prompt_tokens_details: { cached_tokens: 16 } }));
  }
  return all.map((event) => `data: ${JSON.stringify(event)}\n\n`).join('') + (end ? 'data: [DONE]\n\n' : '');
}
