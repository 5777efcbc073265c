/** Requests as the caller wants them: with headers and credentials, or answered by the page, whose functions stay there. */

import type { Emit, LoadRequest } from '../worker/protocol.js';
import type { Network } from './fetch.js';

/** What the page answers first: the headers to send, its own answer's head, or why there is none. */
export type PageAnswer = { headers: [string, string][] } | AnswerHead | { error: string };

export interface AnswerHead {
  head: { status: number; statusText: string; headers: [string, string][] };
  facts: { url: string; redirected: boolean; type: ResponseType };
}

/** After a head, one for each `pull`; without bytes at the end. */
export type PagePiece = { bytes?: Uint8Array<ArrayBuffer> } | { error: string };

export function networkOf(network: Network, { headers, credentials, asks }: LoadRequest, emit: Emit): Network {
  if (!headers && !credentials && !asks) return network;

  async function fetch(url: string, init: RequestInit): Promise<Response> {
    const { signal, ...rest } = init;
    const all = new Headers(headers);
    new Headers(init.headers).forEach((value, name) => all.set(name, value));
    const request = { ...rest, ...(credentials ? { credentials } : {}), headers: [...all] };
    if (!asks) return network.fetch(url, { ...request, signal: signal ?? null });

    const { port1, port2 } = new MessageChannel();
    emit({ type: 'fetch', url, init: request, port: port2 }, [port2]);
    const answer = await receive<PageAnswer>(port1, signal);
    if ('head' in answer) return response(answer, port1, signal);
    close(port1);
    return network.fetch(url, { ...request, headers: answer.headers, signal: signal ?? null });
  }
  const { probe, ...own } = network;
  return { ...own, ...(probe && asks !== 'fetch' ? { probe } : {}), fetch };
}

async function receive<T extends object>(
  port: MessagePort,
  signal: AbortSignal | null | undefined,
): Promise<Exclude<T, { error: string }>> {
  const message = await new Promise<T>((resolve, reject) => {
    port.onmessage = ({ data }: MessageEvent<T>) => resolve(data);
    signal?.addEventListener('abort', () => {
      close(port);
      reject(signal.reason);
    });
  });
  if (!('error' in message)) return message as Exclude<T, { error: string }>;
  close(port);
  throw new TypeError(message.error as string);
}

function close(port: MessagePort): void {
  port.postMessage('close');
  port.close();
}

function response({ head, facts }: AnswerHead, port: MessagePort, signal: AbortSignal | null | undefined): Response {
  const body = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        port.postMessage('pull');
        const { bytes } = await receive<PagePiece>(port, signal);
        if (bytes) return controller.enqueue(bytes);
        close(port);
        controller.close();
      },
      cancel: () => close(port),
    },
    { highWaterMark: 0 },
  );
  // What a Response has from the network alone. Some statuses may have no body.
  const made = new Response([204, 205, 304].includes(head.status) ? null : body, head);
  return Object.defineProperties(made, Object.getOwnPropertyDescriptors(facts));
}
