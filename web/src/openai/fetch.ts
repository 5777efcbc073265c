/** `fetch` as if OpenAI's API were behind it: what clients of that API ask for, a page's model answers. */

import { aborted, toHaikuqError } from '../failures.js';
import type { OpenAIChunk, OpenAICompletion, OpenAIRequest, OpenAIShape, OpenAIStream } from '../types.js';
import { toBytes } from './answer.js';

/** Rejects with `AbortError` alone, as `fetch` does; all that goes wrong is a response with OpenAI's JSON. */
export function createFetch({ chat, models }: Omit<OpenAIShape, 'fetch'>): typeof globalThis.fetch {
  async function answer(method: string, path: string, body: () => Promise<string>, signal: AbortSignal | undefined): Promise<Response> {
    if (path.endsWith('/chat/completions')) {
      if (method !== 'POST') return refusal(405, `${method} ${path} is not answered, POST is`, { code: 'method_not_allowed' });
      let request: OpenAIRequest;
      try {
        request = JSON.parse(await body()) as OpenAIRequest;
      } catch (error) {
        return refusal(400, `the body is not JSON: ${(error as Error).message}`);
      }
      return toResponse(await chat.completions.create(request, { signal }), signal);
    }
    const [, id] = /\/models(?:\/(.+))?$/.exec(path) ?? [];
    if (id === undefined && path.endsWith('/models')) return Response.json({ object: 'list', data: (await models.list()).data });
    if (id === undefined) {
      return refusal(404, `${method} ${path} is not answered here, only /chat/completions and /models are`, { code: 'unknown_url' });
    }
    const model = await models.retrieve(decodeURIComponent(id)).catch(() => undefined);
    return model ? Response.json(model) : refusal(404, `there is no model ${id} here`, { code: 'model_not_found', param: 'model' });
  }
  return async (input, init) => {
    const asked = input instanceof Request ? input : undefined;
    const signal = init?.signal ?? asked?.signal;
    throwIfAborted(signal);
    const { pathname } = new URL(asked?.url ?? String(input), 'http://localhost');
    const body = () => (init?.body !== undefined ? new Response(init.body).text() : (asked?.text() ?? Promise.resolve('')));
    try {
      return await answer((init?.method ?? asked?.method ?? 'GET').toUpperCase(), pathname, body, signal);
    } catch (error) {
      throwIfAborted(signal);
      return toRefusal(error);
    }
  };
}

/**
 * The response that OpenAI's server would send. That of a stream is there when the first chunk is, so that what goes wrong
 * before is no stream. Rejects with what the stream throws before its first chunk.
 */
export async function toResponse(answer: OpenAICompletion | OpenAIStream, signal?: AbortSignal): Promise<Response> {
  if (!('controller' in answer)) return Response.json(answer);
  const chunks = answer[Symbol.asyncIterator]();
  const first = await chunks.next();
  // An abort ends the iteration without an error, which a response may not.
  if (answer.controller.signal.aborted) throw aborted('the completion');
  const body = toBytes(serverSent(first, chunks, answer.controller.signal, signal), (event) => `data: ${event}\n\n`);
  return new Response(body, { headers: { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' } });
}

/** Data of the events of a stream, the last one that says so included. */
async function* serverSent(
  first: IteratorResult<OpenAIChunk, void>,
  chunks: AsyncIterator<OpenAIChunk, void>,
  stopped: AbortSignal,
  signal: AbortSignal | undefined,
): AsyncGenerator<string, void, undefined> {
  try {
    for (let next = first; !next.done; next = await chunks.next()) yield JSON.stringify(next.value);
  } catch (error) {
    yield JSON.stringify(describe(error).body);
    return;
  } finally {
    await chunks.return?.();
  }
  throwIfAborted(signal);
  if (!stopped.aborted) yield '[DONE]';
}

function toRefusal(error: unknown): Response {
  const { status, body } = describe(error);
  return refusal(status, body.error.message, body.error);
}

/** OpenAI's words for an error of this package. Its client tries statuses from 500 on again, which would change nothing here. */
function describe(thrown: unknown) {
  const { code, message, details } = toHaikuqError(thrown);
  const error = { message, type: 'server_error', param: details.field ?? null, code: code as string };
  if (code === 'invalid-argument')
    return { status: 400, body: { error: { ...error, type: 'invalid_request_error', code: 'invalid_value' } } };
  if (code === 'context-overflow') {
    return {
      status: 400,
      body: { error: { ...error, type: 'invalid_request_error', param: 'messages', code: 'context_length_exceeded' } },
    };
  }
  return { status: code === 'aborted' ? 503 : 500, body: { error } };
}

function refusal(status: number, message: string, more: { type?: string; param?: string | null; code?: string } = {}): Response {
  const error = { message, type: 'invalid_request_error', param: null, code: null, ...more };
  return Response.json({ error }, { status, headers: { 'x-should-retry': 'false' } });
}

function throwIfAborted(signal: AbortSignal | null | undefined): void {
  if (signal?.aborted) throw new DOMException('The operation was aborted.', 'AbortError');
}
