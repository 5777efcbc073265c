/** Server-sent events of a response's body. */

import { createParser, type EventSourceMessage, type ParseError } from 'eventsource-parser';
import { HaikuqError } from '../errors.js';
import { abortable } from './stream.js';

export type { EventSourceMessage };

/** Characters of one event, at most: an answer's piece has some dozens, an endless line must not fill the memory. */
const MAX_EVENT_LENGTH = 1 << 20;

/**
 * The events of `body`. An event that the end of the stream cuts off is dropped, as the standard says. `onBytes` is
 * called for everything that arrives, comments (which servers send to keep a connection open) included. Leaving the
 * iteration cancels the body, and so does `signal`, with its reason thrown.
 *
 * @throws `HaikuqError` `cloud` for an event over 1 MiB; what reading the body throws, unchanged.
 */
export async function* readEvents(
  body: ReadableStream<Uint8Array>,
  signal: AbortSignal,
  onBytes: () => void = () => {},
): AsyncGenerator<EventSourceMessage, void> {
  const events: EventSourceMessage[] = [];
  let tooLong: ParseError | undefined;
  const parser = createParser({
    maxBufferSize: MAX_EVENT_LENGTH,
    onEvent: (event) => events.push(event),
    // Unknown fields are to be ignored; only the overflow ends a stream.
    onError: (error) => {
      if (error.type === 'max-buffer-size-exceeded') tooLong = error;
    },
  });
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await abortable(reader.read(), signal);
      if (done) return;
      onBytes();
      parser.feed(decoder.decode(value, { stream: true }));
      yield* events.splice(0);
      if (tooLong) {
        throw new HaikuqError('cloud', `the stream has an event of over ${MAX_EVENT_LENGTH} characters`, {}, { cause: tooLong });
      }
    }
  } finally {
    // Rejects where the stream has failed already, which the reader has reported.
    reader.cancel().catch(() => {});
  }
}
