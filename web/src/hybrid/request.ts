/** One request to an endpoint that answers with server-sent events, and what can go wrong with it. */

import { HaikuqError } from '../errors.js';
import { checkHeaders, type EndpointOptions } from './endpoint.js';
import { type EventSourceMessage, readEvents } from './sse.js';
import { abortable } from './stream.js';

const DEFAULT_TIMEOUT_MS = 60_000;
const DEFAULT_MAX_RETRY_AFTER_S = 10;
/** Of an error page that is no API's error, so much is quoted. */
const QUOTED_CHARACTERS = 300;

/**
 * Posts `body` and gives out the events of the answer.
 *
 * @throws `HaikuqError` `cloud` for an error status or an answer that is no event stream, `network` where the endpoint
 * cannot be reached, falls silent or hangs up. After `signal` aborts, anything.
 */
export async function* postForEvents(
  name: string,
  options: EndpointOptions,
  body: unknown,
  signal: AbortSignal,
): AsyncGenerator<EventSourceMessage, void> {
  const connection = new AbortController();
  const onAbort = () => connection.abort(signal.reason);
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort, { once: true });

  const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  let silent: HaikuqError | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const onBytes = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      silent = new HaikuqError('network', `${options.endpoint} sent nothing for ${timeoutMs} ms`, fileOf(options));
      connection.abort(silent);
    }, timeoutMs);
  };

  try {
    onBytes();
    const post = async () => {
      const response = await send(name, options, body, connection.signal);
      onBytes();
      return response;
    };
    let response = await post();
    const wait = retryDelayMs(response, options);
    if (wait !== undefined) {
      await response.body?.cancel();
      clearTimeout(timer);
      await sleep(wait, signal);
      onBytes();
      response = await post();
    }
    if (!response.ok) throw await errorOf(response, options);
    yield* readEvents(eventBody(response, options), connection.signal, onBytes);
  } catch (error) {
    if (silent) throw silent;
    if (error instanceof HaikuqError || signal.aborted) throw error;
    throw new HaikuqError('network', `the connection to ${options.endpoint} broke: ${messageOf(error)}`, fileOf(options), {
      cause: error,
    });
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
    // A reader that stops needs nothing more of this connection.
    connection.abort();
  }
}

async function send(name: string, options: EndpointOptions, body: unknown, signal: AbortSignal): Promise<Response> {
  const own = typeof options.headers === 'function' ? await options.headers() : (options.headers ?? {});
  checkHeaders(name, own);
  const headers = new Headers({ accept: 'text/event-stream', 'content-type': 'application/json' });
  for (const [header, value] of Object.entries(own)) headers.set(header, value);
  // A method call on `options` would make it `this`, which browsers refuse.
  const post = options.fetch ?? fetch;
  try {
    // A `fetch` of the caller's own may not heed the signal.
    return await abortable(post(options.endpoint, { method: 'POST', headers, body: JSON.stringify(body), signal }), signal);
  } catch (error) {
    if (signal.aborted) throw error;
    throw new HaikuqError('network', `cannot reach ${options.endpoint}: ${messageOf(error)}`, fileOf(options), { cause: error });
  }
}

/** Milliseconds to wait before asking again, or undefined where asking again is not called for. */
function retryDelayMs(response: Response, options: EndpointOptions): number | undefined {
  if (response.status !== 429 && response.status !== 503) return undefined;
  const header = response.headers.get('retry-after');
  if (header === null || header.trim() === '') return undefined;
  const seconds = /^\s*\d+(\.\d+)?\s*$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  const limit = options.maxRetryAfter ?? DEFAULT_MAX_RETRY_AFTER_S;
  // Not a number, where the header is neither seconds nor a date, compares as false.
  return limit > 0 && seconds <= limit ? Math.max(0, seconds * 1000) : undefined;
}

function eventBody(response: Response, options: EndpointOptions): ReadableStream<Uint8Array> {
  const type = response.headers.get('content-type') ?? 'no type';
  if (response.body && /^text\/event-stream\b/i.test(type)) return response.body;
  throw new HaikuqError('cloud', `${options.endpoint} answered with ${type}, not with text/event-stream`, {
    ...fileOf(options),
    status: response.status,
  });
}

async function errorOf(response: Response, options: EndpointOptions): Promise<HaikuqError> {
  const text = await response.text().catch(() => '');
  let said: ReturnType<typeof apiError>;
  try {
    said = apiError(JSON.parse(text));
  } catch {
    // A gateway's page, say.
  }
  const message = said?.message ?? (text.trim().slice(0, QUOTED_CHARACTERS) || response.statusText || 'no message');
  return new HaikuqError(said?.code ?? 'cloud', `${options.endpoint} answered ${response.status}: ${message}`, {
    ...fileOf(options),
    status: response.status,
  });
}

/**
 * The error in an API's JSON, or undefined where there is none: `{"error": {"message": …}}` of Anthropic and OpenAI,
 * `{"error": "…"}` and `{"object": "error", "message": "…"}` of servers that imitate them.
 */
export function apiError(json: unknown): { code: 'cloud' | 'context-overflow'; message: string } | undefined {
  if (!isRecord(json)) return undefined;
  const error = json.error ?? (json.object === 'error' ? json : undefined);
  if (typeof error === 'string') return { code: 'cloud', message: error };
  if (!isRecord(error)) return undefined;
  return {
    code: error.code === 'context_length_exceeded' ? 'context-overflow' : 'cloud',
    message: typeof error.message === 'string' ? error.message : JSON.stringify(error),
  };
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function sleep(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', onAbort);
      resolve();
    }, milliseconds);
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
}

function fileOf(options: EndpointOptions) {
  return { file: String(options.endpoint) };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
