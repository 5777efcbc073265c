import { useCallback, useEffect, useRef, useState } from 'react';
import type { HaikuqError } from '../errors.js';
import { toHaikuqError } from '../failures.js';
import type { LoadOptions, LoadProgress, Model, PackageLocation } from '../types.js';

/** `idle`: there is no location yet. */
export type ModelStatus = 'idle' | 'loading' | 'ready' | 'error';

export interface UseModel {
  status: ModelStatus;
  model: Model | undefined;
  /** The newest, while loading and after. */
  progress: LoadProgress | undefined;
  error: HaikuqError | undefined;
  /** Loads again: after an error, or after the package changed. */
  reload: () => void;
}

export type Load = (location: PackageLocation, options: LoadOptions) => Promise<Model>;

type State = Omit<UseModel, 'reload'>;

const IDLE: State = { status: 'idle', model: undefined, progress: undefined, error: undefined };
const LOADING: State = { ...IDLE, status: 'loading' };

/** `useModel` with the loader that it is to use. */
export function useModelOf(load: Load, location: PackageLocation | null | undefined, options: LoadOptions = {}): UseModel {
  const [state, setState] = useState(location === null || location === undefined ? IDLE : LOADING);
  const [attempt, setAttempt] = useState(0);
  const newest = useRef(options);
  useEffect(() => {
    newest.current = options;
  });

  // A URL is made anew in many a render; the same address is the same package.
  const key = location instanceof URL ? location.href : location;
  // biome-ignore lint/correctness/useExhaustiveDependencies: another attempt loads the same once more
  useEffect(() => {
    if (key === null || key === undefined) {
      setState(IDLE);
      return;
    }
    setState(LOADING);
    const controller = new AbortController();
    const loading = loadFor(load, key, newest, controller.signal, (progress) => setState((was) => ({ ...was, progress })));
    loading.then(
      (model) => {
        if (!controller.signal.aborted) setState((was) => ({ ...was, status: 'ready', model }));
      },
      (thrown: unknown) => {
        if (controller.signal.aborted) return;
        const error = toHaikuqError(thrown);
        setState((was) => ({ ...was, status: 'error', error }));
      },
    );
    return () => {
      controller.abort();
      // Whether it is there or still comes: nobody else knows of it.
      loading.then((model) => model.dispose()).catch(() => {});
    };
  }, [load, key, attempt]);

  const reload = useCallback(() => setAttempt((count) => count + 1), []);
  return { ...state, reload };
}

async function loadFor(
  load: Load,
  location: PackageLocation,
  newest: { readonly current: LoadOptions },
  signal: AbortSignal,
  onProgress: (progress: LoadProgress) => void,
): Promise<Model> {
  // StrictMode mounts, unmounts and mounts again within one task: only the second load begins.
  await Promise.resolve();
  signal.throwIfAborted();
  const { signal: own } = newest.current;
  const controller = new AbortController();
  const abort = () => controller.abort(own?.aborted ? own.reason : signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  own?.addEventListener('abort', abort, { once: true });
  if (own?.aborted) abort();
  try {
    return await load(location, {
      ...newest.current,
      signal: controller.signal,
      onProgress: (progress) => {
        if (signal.aborted) return;
        onProgress(progress);
        newest.current.onProgress?.(progress);
      },
      onDeviceLost: (event) => newest.current.onDeviceLost?.(event),
    });
  } finally {
    signal.removeEventListener('abort', abort);
    own?.removeEventListener('abort', abort);
  }
}
