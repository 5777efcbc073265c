/** Errors across the worker's boundary: comlink alone would drop their codes and details. */

import { transferHandlers, type TransferHandler } from 'comlink';
import { type ErrorCode, type ErrorDetails, HaikuqError } from '../errors.js';

interface SentError {
  haikuq: { code: ErrorCode; message: string; details: ErrorDetails; stack: string | undefined; cause: string | undefined };
}

type Thrown = TransferHandler<{ value: unknown }, unknown>;

let installed = false;

/** Extends comlink's handler of thrown values, on both sides; other users of comlink notice nothing. */
export function installErrorTransfer(): void {
  if (installed) return;
  installed = true;
  const original = transferHandlers.get('throw') as Thrown;
  const handler: Thrown = {
    canHandle: original.canHandle,
    serialize(thrown) {
      return thrown.value instanceof HaikuqError ? [send(thrown.value), []] : original.serialize(thrown);
    },
    deserialize(sent) {
      if (isSentError(sent)) throw receive(sent);
      return original.deserialize(sent);
    },
  };
  transferHandlers.set('throw', handler);
}

function send({ code, message, details, stack, cause }: HaikuqError): SentError {
  return { haikuq: { code, message, details, stack, cause: cause === undefined ? undefined : String(cause) } };
}

function receive({ haikuq: { code, message, details, stack, cause } }: SentError): HaikuqError {
  const error = new HaikuqError(code, message, details, cause === undefined ? {} : { cause });
  if (stack !== undefined) error.stack = stack;
  return error;
}

function isSentError(sent: unknown): sent is SentError {
  return typeof sent === 'object' && sent !== null && 'haikuq' in sent;
}
