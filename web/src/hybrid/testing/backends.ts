/** Chat backends whose answers are known beforehand. */

import { HaikuqError, type ErrorCode } from '../../errors.js';
import type { AdapterInfo, ChatBackend, ChatOptions, Message } from '../../types.js';
import { makeTextStream, plainResult } from '../stream.js';

export interface Asked {
  messages: readonly Message[];
  options: ChatOptions;
}

/** Writes the pieces, then fails with `error` where there is one, or waits for an abort where `hangs`. */
export function scripted(
  answeredBy: 'local' | 'cloud',
  pieces: string[],
  { error, hangs = false }: { error?: Error; hangs?: boolean } = {},
): ChatBackend & { asked: Asked[] } {
  const asked: Asked[] = [];
  return {
    asked,
    chat(messages, options = {}) {
      asked.push({ messages, options });
      return makeTextStream(async (emit, signal) => {
        let text = '';
        for (const piece of pieces) {
          await Promise.resolve();
          text += piece;
          emit(piece);
        }
        if (hangs && !signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve));
        if (error) throw error;
        const timings = { timeToFirstTokenMs: 1, decodeMs: 1, tokensPerSecond: 1 };
        return plainResult(answeredBy, text, signal.aborted ? 'cancelled' : 'stop', timings);
      }, options.signal);
    },
  };
}

export function failure(code: ErrorCode): HaikuqError {
  return new HaikuqError(code, `failed with ${code}`);
}

export const ADAPTER: AdapterInfo = {
  vendor: 'acme',
  architecture: 'a1',
  device: '',
  description: '',
  f16: true,
  subgroups: [32, 32],
  limits: { maxBufferSize: 2 ** 31 },
  software: false,
};

export async function collect(stream: AsyncIterable<string>): Promise<string[]> {
  const pieces: string[] = [];
  for await (const piece of stream) pieces.push(piece);
  return pieces;
}
