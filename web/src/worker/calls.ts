/**
 * Calls of a host that runs in a worker: messages `haikuqCall` to it, `haikuqAnswer` or `haikuqError` back, and `haikuqEvent`
 * for what it tells meanwhile. They come in the order in which they are sent.
 */

import { type ErrorCode, type ErrorDetails, HaikuqError } from '../errors.js';
import { toHaikuqError } from '../failures.js';
import type { Host, HostEvent } from './protocol.js';

export interface CallMessage {
  haikuqCall: [id: number, method: keyof Host, args: unknown[]];
}

export type HostMessage =
  | { haikuqEvent: HostEvent }
  | { haikuqAnswer: [id: number, value: unknown] }
  | { haikuqError: [id: number, error: SentError] };

/** A structured clone of an error alone would drop its code and its details. */
interface SentError {
  code: ErrorCode;
  message: string;
  details: ErrorDetails;
  stack: string | undefined;
  cause: string | undefined;
}

/** A worker's own scope, or a port. */
export interface CallPort {
  addEventListener(type: 'message', listener: (event: MessageEvent) => void): void;
  postMessage(message: HostMessage, transfer?: Transferable[]): void;
}

/** Answers calls that come over `port` with what the methods of `host` resolve to. */
export function serveCalls(host: Host, port: CallPort): void {
  port.addEventListener('message', ({ data }: MessageEvent<Partial<CallMessage> | null>) => {
    if (data?.haikuqCall) void answer(data.haikuqCall);
  });
  async function answer([id, method, args]: CallMessage['haikuqCall']): Promise<void> {
    try {
      const value: unknown = await (host[method] as (...args: unknown[]) => unknown)(...args);
      port.postMessage({ haikuqAnswer: [id, value] });
    } catch (error) {
      port.postMessage({ haikuqError: [id, send(toHaikuqError(error))] });
    }
  }
}

function send({ code, message, details, stack, cause }: HaikuqError): SentError {
  return { code, message, details, stack, cause: cause === undefined ? undefined : String(cause) };
}

/** The error as it was thrown on the other side. */
export function receiveError({ code, message, details, stack, cause }: SentError): HaikuqError {
  const error = new HaikuqError(code, message, details, cause === undefined ? {} : { cause });
  if (stack !== undefined) error.stack = stack;
  return error;
}
