/** A backend whose answers are written by the test, word by word. */

import { makeTextStream, plainResult } from '../../hybrid/stream.js';
import type { ChatBackend, ChatOptions, GenerationResult, Message } from '../../types.js';

export interface WrittenAnswer {
  messages: readonly Message[];
  options: ChatOptions;
  write(text: string): Promise<void>;
  finish(): Promise<void>;
  fail(error: Error): Promise<void>;
  /** Whether it was told to stop. */
  readonly aborted: boolean;
}

export function writtenByTest(): ChatBackend & { answers: WrittenAnswer[]; readonly last: WrittenAnswer } {
  const answers: WrittenAnswer[] = [];
  return {
    answers,
    get last() {
      return answers.at(-1)!;
    },
    chat(messages, options = {}) {
      return makeTextStream(
        (emit, signal) =>
          new Promise<GenerationResult>((resolve, reject) => {
            let text = '';
            const timings = { timeToFirstTokenMs: 1, decodeMs: 1, tokensPerSecond: 1 };
            signal.addEventListener('abort', () => resolve(plainResult('local', text, 'cancelled', timings)));
            answers.push({
              messages,
              options,
              async write(piece) {
                text += piece;
                emit(piece);
                await settled();
              },
              async finish() {
                resolve(plainResult('local', text, 'stop', timings));
                await settled();
              },
              async fail(error) {
                reject(error);
                await settled();
              },
              get aborted() {
                return signal.aborted;
              },
            });
          }),
        options.signal,
      );
    },
  };
}

/** All that promises had to do is done. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}
