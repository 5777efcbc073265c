/** `load`: from a package's location to a model. */

import { HaikuqError } from './errors.js';
import { aborted, throwIfAborted, toHaikuqError } from './failures.js';
import { createCallEvents, createModel, notForEver } from './model.js';
import { checkLoadOptions } from './options.js';
import { answerRequest } from './page-fetch.js';
import { resolveLocation } from './store/location.js';
import type { LoadOptions, Model, PackageLocation } from './types.js';
import { connect, type Connection } from './worker/connection.js';
import type { CallId, HostEvent, LoadRequest } from './worker/protocol.js';

/**
 * Loads a package: from the browser's storage as far as it is there, else from where it lies. Rejects with a
 * `HaikuqError`; `webgpu-unavailable` before anything is downloaded, `aborted` as soon as the signal is.
 */
export async function load(location: PackageLocation, options: LoadOptions = {}): Promise<Model> {
  checkLoadOptions(options);
  const { signal, worker = true } = options;
  const request = loadRequest(location, options);
  throwIfAborted(signal, 'loading');
  if (request.location.kind === 'url' && options.cache !== 'none') void askToPersist();

  const events = createCallEvents();
  let givenUp = false;
  const connecting = connect(worker, (event) => {
    if ('call' in event) events.deliver(event);
    else if (event.type === 'fetch') answerRequest(event, options);
    else if (!givenUp) tellCaller(event, options);
  });
  const call = events.open(() => undefined);
  const loading = connecting.then(({ host }) => {
    throwIfAborted(signal, 'loading');
    return host.load(call, request);
  });
  try {
    const info = await orAborted(loading, signal);
    const { host, close } = await connecting;
    return createModel({ host, info, events, close });
  } catch (error) {
    givenUp = true;
    const over = giveUp(connecting, call, loading);
    // An abort does not wait for what stores what arrived, or is fetching WebAssembly.
    if (!signal?.aborted) await over;
    throw toHaikuqError(error);
  } finally {
    events.close(call);
  }
}

/** Settles as `work` does, or rejects with `aborted` as soon as the signal is. */
async function orAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  let stop = () => {};
  const stopped = new Promise<never>((_, reject) => {
    stop = () => reject(aborted('loading'));
    signal?.addEventListener('abort', stop, { once: true });
  });
  try {
    const result = await Promise.race([work, stopped]);
    throwIfAborted(signal, 'loading');
    return result;
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

function loadRequest(location: PackageLocation, options: LoadOptions): LoadRequest {
  const { cache, credentials, sha256Query, contextSize, kvCache, numerics, kernels, device } = options;
  const asks = options.fetch ? 'fetch' : typeof options.headers === 'function' ? 'headers' : undefined;
  return {
    location: resolveLocation(location),
    ...(cache === undefined ? {} : { cache }),
    ...(options.headers && typeof options.headers !== 'function' ? { headers: headersOf(options.headers) } : {}),
    ...(credentials === undefined ? {} : { credentials }),
    ...(asks === undefined ? {} : { asks }),
    ...(sha256Query === undefined ? {} : { sha256Query }),
    ...(contextSize === undefined ? {} : { contextSize }),
    ...(kvCache === undefined ? {} : { kvCache }),
    ...(numerics === undefined ? {} : { numerics }),
    ...(kernels === undefined ? {} : { kernels }),
    ...(device === undefined ? {} : { device }),
  };
}

function headersOf(headers: HeadersInit): [string, string][] {
  try {
    return [...new Headers(headers)];
  } catch (error) {
    throw new HaikuqError('invalid-argument', `headers: ${(error as Error).message}`, {}, { cause: error });
  }
}

function tellCaller(event: Exclude<HostEvent, { call: number } | { type: 'fetch' }>, { onProgress, onDeviceLost }: LoadOptions): void {
  try {
    if (event.type === 'progress') onProgress?.(event.progress);
    else onDeviceLost?.({ message: event.message, recovered: event.recovered });
  } catch (error) {
    // An error of the caller's own is the page's to hear of, and must not end the load.
    queueMicrotask(() => {
      throw error;
    });
  }
}

/** Storage that may be evicted at any time would be downloaded again; the answer changes nothing now. */
async function askToPersist(): Promise<void> {
  try {
    const { storage } = navigator;
    if (!(await storage.persisted())) await storage.persist();
  } catch {
    // Workers cannot ask, and some browsers have nothing to ask.
  }
}

/**
 * Ends what there is of a load, and gives it some time to store what arrived. A load can fail after the engine was made. Its
 * memory has to be freed where there is no worker to end. Never rejects.
 */
async function giveUp(connecting: Promise<Connection>, call: CallId, loading: Promise<unknown>): Promise<void> {
  const connection = await connecting.catch(() => undefined);
  if (!connection) return;
  const { host, close } = connection;
  await notForEver(async () => {
    await host.cancel(call);
    await loading.catch(() => undefined);
    await host.dispose();
  });
  close();
}
