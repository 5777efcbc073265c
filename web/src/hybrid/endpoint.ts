/**
 * What every cloud route is told: where the site's own endpoint is.
 *
 * Whatever a page holds, its visitors hold. A provider's key in a page is a published key, so nothing here takes one,
 * and requests that would need one are refused before they are made.
 */

import { HaikuqError } from '../errors.js';

export interface EndpointOptions {
  /**
   * URL of an endpoint of the site's own that holds the key and passes the request on; relative to the page.
   * Providers' own hosts are refused.
   */
  endpoint: string | URL;
  /** The provider's name of the model. An endpoint may use another. */
  model: string;
  /** Tokens of an answer, at most, where the call's options say nothing. */
  maxTokens?: number;
  /** Headers for the endpoint, such as the visitor's session token; a function is asked before every request. */
  headers?: Record<string, string> | (() => Record<string, string> | Promise<Record<string, string>>);
  /** Fields that are added to every request and win over those made from the call's options; `undefined` leaves one out. */
  body?: Record<string, unknown>;
  /** Used in place of the global `fetch`. */
  fetch?: typeof fetch;
  /** Milliseconds without any byte from the endpoint after which the connection counts as broken. Default 60 000. */
  timeoutMs?: number;
  /**
   * A busy endpoint (status 429 or 503) that asks for a wait of at most so many seconds (`Retry-After`) is asked once
   * again after it. Default 10; 0 never.
   */
  maxRetryAfter?: number;
}

const PROVIDER_HOSTS = ['api.anthropic.com', 'api.openai.com'];

/** Keys of Anthropic, OpenAI and most that imitate them, with or without a scheme such as `Bearer`. */
const SECRET_KEY = /^\s*(?:\w+\s+)?sk-[\w-]{8,}/i;

const USE_A_PROXY =
  'A key in a page is readable by every visitor. Send requests to an endpoint of your own that adds the key; ' +
  'see "Hybrid" in docs/web.md for one of 30 lines.';

/** @throws `HaikuqError` `invalid-argument` for options out of range, a provider's own host, or a secret key. */
export function checkEndpoint(name: string, options: EndpointOptions): void {
  const { endpoint, model, maxTokens, timeoutMs, maxRetryAfter, headers } = options;
  if (String(endpoint ?? '') === '') throw invalid(`${name}: endpoint is empty`);
  if (typeof model !== 'string' || model === '') throw invalid(`${name}: model is empty`);
  if (maxTokens !== undefined && !(Number.isInteger(maxTokens) && maxTokens > 0)) {
    throw invalid(`${name}: maxTokens is ${maxTokens}; it must be a whole number above 0`);
  }
  if (timeoutMs !== undefined && !(timeoutMs > 0)) throw invalid(`${name}: timeoutMs is ${timeoutMs}; it must be above 0`);
  if (maxRetryAfter !== undefined && !(maxRetryAfter >= 0)) {
    throw invalid(`${name}: maxRetryAfter is ${maxRetryAfter}; it must be at least 0`);
  }
  const host = hostOf(endpoint);
  if (host !== undefined && PROVIDER_HOSTS.includes(host)) {
    throw invalid(`${name}: the endpoint is ${host} itself, which asks for a secret key. ${USE_A_PROXY}`);
  }
  if (headers !== undefined && typeof headers !== 'function') checkHeaders(name, headers);
}

/** @throws `HaikuqError` `invalid-argument` where a value looks like a provider's secret key. */
export function checkHeaders(name: string, headers: Record<string, string>): void {
  for (const [header, value] of Object.entries(headers)) {
    if (SECRET_KEY.test(value)) {
      throw invalid(`${name}: the header ${header} looks like a provider's secret key (sk-…). ${USE_A_PROXY}`);
    }
  }
}

function hostOf(endpoint: string | URL): string | undefined {
  try {
    // Only an absolute URL can lead to another host; what a relative one is relative to is not known on a server.
    // The trailing dot of a fully qualified name is the same host.
    return new URL(endpoint, 'https://site.invalid').hostname.replace(/\.$/, '');
  } catch {
    return undefined;
  }
}

function invalid(message: string): HaikuqError {
  return new HaikuqError('invalid-argument', message);
}
