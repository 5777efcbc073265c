/** What was written, as OpenAI's API says it. */

import { aborted } from '../failures.js';
import type { FinishReason, GenerationResult, OpenAIChunk, OpenAICompletion, OpenAIStream, OpenAIUsage, TextStream } from '../types.js';

/** What all chunks of an answer have in common. */
export interface Answer {
  id: string;
  created: number;
  model: string;
}

export function newAnswer(model: string): Answer {
  return { id: `chatcmpl-${crypto.randomUUID()}`, created: secondsNow(), model };
}

export function secondsNow(): number {
  return Math.floor(Date.now() / 1000);
}

export function toCompletion(result: GenerationResult, answer: Answer): OpenAICompletion {
  if (result.finish === 'cancelled') throw aborted('the completion');
  const message: OpenAICompletion['choices'][number]['message'] = {
    role: 'assistant',
    content: result.text,
    refusal: null,
    annotations: [],
  };
  const choice = { index: 0, message, finish_reason: toFinishReason(result.finish), logprobs: null };
  return { ...answer, object: 'chat.completion', choices: [choice], usage: toUsage(result) };
}

/** Ends without an error once `signal` is aborted. */
export async function* toChunks(
  text: TextStream,
  answer: Answer,
  includeUsage: boolean,
  signal: AbortSignal,
): AsyncGenerator<OpenAIChunk, void, undefined> {
  const chunk = (delta: OpenAIChunk['choices'][number]['delta'], finish_reason: 'stop' | 'length' | null = null): OpenAIChunk => ({
    ...answer,
    object: 'chat.completion.chunk',
    choices: [{ index: 0, delta, finish_reason, logprobs: null }],
    ...(includeUsage ? { usage: null } : {}),
  });
  const first = () => chunk({ role: 'assistant', content: '', refusal: null });
  try {
    let begun = false;
    for await (const piece of text) {
      if (!begun) yield first();
      begun = true;
      yield chunk({ content: piece });
    }
    const result = await text.result;
    if (signal.aborted && result.finish === 'cancelled') return;
    if (!begun) yield first();
    yield chunk({}, toFinishReason(result.finish));
    if (includeUsage) yield { ...answer, object: 'chat.completion.chunk', choices: [], usage: toUsage(result) };
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    text.abort();
  }
}

/** Iterates as an array does: each time from where the last one stopped. */
export function toStream(chunks: AsyncIterator<OpenAIChunk, void>, controller: AbortController): OpenAIStream {
  const iterator: AsyncIterableIterator<OpenAIChunk> = {
    next: () => chunks.next(),
    async return() {
      await chunks.return?.();
      return { done: true, value: undefined };
    },
    [Symbol.asyncIterator]: () => iterator,
  };
  return {
    controller,
    [Symbol.asyncIterator]: () => iterator,
    tee() {
      const waiting: Promise<IteratorResult<OpenAIChunk, void>>[][] = [[], []];
      const branch = (own: number): AsyncIterator<OpenAIChunk, void> => ({
        next() {
          if (waiting[own]?.length === 0) {
            const next = chunks.next();
            for (const queue of waiting) queue.push(next);
          }
          return waiting[own]?.shift() as Promise<IteratorResult<OpenAIChunk, void>>;
        },
      });
      return [toStream(branch(0), controller), toStream(branch(1), controller)];
    },
    toReadableStream: () => toBytes(chunks, (chunk) => `${JSON.stringify(chunk)}\n`),
  };
}

/** A body of what `write` makes of each chunk. Cancelling it ends the answer. */
export function toBytes<T>(chunks: AsyncIterator<T, void>, write: (chunk: T) => string): ReadableStream<Uint8Array<ArrayBuffer>> {
  const encoder = new TextEncoder();
  return new ReadableStream({
    async pull(body) {
      const { done, value } = await chunks.next();
      if (done) body.close();
      else body.enqueue(encoder.encode(write(value)));
    },
    async cancel() {
      await chunks.return?.();
    },
  });
}

function toUsage({ usage }: GenerationResult): OpenAIUsage {
  return {
    prompt_tokens: usage.promptTokens,
    completion_tokens: usage.completionTokens,
    total_tokens: usage.promptTokens + usage.completionTokens,
    prompt_tokens_details: { cached_tokens: usage.reusedTokens },
  };
}

function toFinishReason(finish: FinishReason): 'stop' | 'length' {
  return finish === 'stop' ? 'stop' : 'length';
}
