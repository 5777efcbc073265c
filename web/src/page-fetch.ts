/** The page's side of requests that the caller's own functions have a part in: `headers` and `fetch` of `load`. */

import type { AnswerHead, PageAnswer, PagePiece } from './store/page-requests.js';
import type { LoadOptions } from './types.js';
import type { HostEvent } from './worker/protocol.js';

type FetchEvent = Extract<HostEvent, { type: 'fetch' }>;

/** Answers over the event's port, until the other side closes it. Never throws: errors go there too. */
export function answerRequest({ url, init, port }: FetchEvent, { headers, fetch }: Pick<LoadOptions, 'headers' | 'fetch'>): void {
  const controller = new AbortController();
  let reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  const send = (message: PageAnswer | PagePiece, transfer: Transferable[] = []) => port.postMessage(message, transfer);

  async function answer(): Promise<void> {
    const all = new Headers(typeof headers === 'function' ? await headers() : undefined);
    new Headers(init.headers).forEach((value, name) => all.set(name, value));
    if (!fetch) return send({ headers: [...all] });
    const response = await fetch(url, { ...init, headers: all, signal: controller.signal });
    reader = response.body?.getReader();
    send(headOf(response));
  }
  async function sendPiece(): Promise<void> {
    const { value } = (await reader?.read()) ?? {};
    if (!value) return send({});
    // A copy, since what is sent is lost here, and the caller may still want it.
    const bytes = new Uint8Array(value);
    send({ bytes }, [bytes.buffer]);
  }
  const orError = (work: Promise<void>) =>
    void work.catch((error: unknown) => send({ error: error instanceof Error ? error.message : String(error) }));

  port.onmessage = ({ data }: MessageEvent<'pull' | 'close'>) => {
    if (data === 'pull') return orError(sendPiece());
    controller.abort();
    reader?.cancel().catch(() => undefined);
    port.close();
  };
  orError(answer());
}

function headOf({ status, statusText, headers, url, redirected, type }: Response): AnswerHead {
  return { head: { status, statusText, headers: [...headers] }, facts: { url, redirected, type } };
}
