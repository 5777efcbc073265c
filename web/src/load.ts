/** `load`: from a package's location to a model. */

import { aborted, throwIfAborted, toHaikuqError } from './failures.js';
import { createCallEvents, createModel } from './model.js';
import { checkLoadOptions } from './options.js';
import { resolveLocation } from './store/location.js';
import type { LoadOptions, Model, PackageLocation } from './types.js';
import { connect, type Connection } from './worker/connection.js';
import type { HostEvent, LoadRequest } from './worker/protocol.js';

/**
 * Loads a package: from the browser's storage as far as it is there, else from where it lies. Rejects with a
 * `HaikuqError`; `webgpu-unavailable` before anything is downloaded.
 */
export async function load(location: PackageLocation, options: LoadOptions = {}): Promise<Model> {
  checkLoadOptions(options);
  const { signal, worker = true } = options;
  const request = loadRequest(location, options);
  throwIfAborted(signal, 'loading');
  if (request.location.kind === 'url' && options.cache !== 'none') void askToPersist();

  const events = createCallEvents();
  const connection = await connect(worker, (event) => {
    if ('call' in event) events.deliver(event);
    else tellCaller(event, options);
  });
  const call = events.open(() => undefined);
  const cancel = () => void connection.host.cancel(call).catch(() => undefined);
  signal?.addEventListener('abort', cancel, { once: true });
  try {
    if (signal?.aborted) throw aborted('loading');
    const info = await connection.host.load(call, request);
    throwIfAborted(signal, 'loading');
    return createModel({ host: connection.host, info, events, close: connection.close });
  } catch (error) {
    await giveUp(connection);
    throw toHaikuqError(error);
  } finally {
    events.close(call);
    signal?.removeEventListener('abort', cancel);
  }
}

function loadRequest(location: PackageLocation, { cache, contextSize, kvCache, device }: LoadOptions): LoadRequest {
  const base = globalThis.document?.baseURI ?? globalThis.location?.href;
  return {
    location: resolveLocation(location, base),
    ...(cache === undefined ? {} : { cache }),
    ...(contextSize === undefined ? {} : { contextSize }),
    ...(kvCache === undefined ? {} : { kvCache }),
    ...(device === undefined ? {} : { device }),
  };
}

function tellCaller(event: Exclude<HostEvent, { call: number }>, { onProgress, onDeviceLost }: LoadOptions): void {
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

/** A load can fail after the engine was made; what it holds is to be freed where there is no worker to end. */
async function giveUp(connection: Connection): Promise<void> {
  await connection.host.dispose().catch(() => undefined);
  connection.close();
}
