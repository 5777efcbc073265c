/** The local side: a model that is there, on its way, or loaded when it is first needed. */

import { HaikuqError } from '../errors.js';
import type { ChatBackend, Model } from '../types.js';

/** What `hybrid` uses of a `Model`. Without `countTokens` a route by tokens takes every prompt for short. */
export type LocalBackend = ChatBackend & Partial<Pick<Model, 'countTokens' | 'info'>>;

/** A model, the promise of one, or a function that loads one when it is first needed. */
export type LocalSource = LocalBackend | Promise<LocalBackend> | (() => LocalBackend | Promise<LocalBackend>);

/** `none`: not given. `unloaded`: the function was not called yet, or may be called again. */
export type LocalState = 'none' | 'unloaded' | 'loading' | 'ready' | 'failed';

export interface Local {
  readonly state: LocalState;
  /** The model where it is ready. */
  readonly model: LocalBackend | undefined;
  /** Loads it where that was not done. Rejects with what loading failed of. */
  load(): Promise<LocalBackend>;
}

export function localOf(source: LocalSource | undefined): Local {
  let state: LocalState = source === undefined ? 'none' : 'unloaded';
  let model: LocalBackend | undefined;
  let loading: Promise<LocalBackend> | undefined;

  function load(): Promise<LocalBackend> {
    if (source === undefined) return Promise.reject(new HaikuqError('invalid-argument', 'hybrid: there is no local model'));
    if (loading) return loading;
    state = 'loading';
    // A loader's own throw is a rejection like any other.
    loading = (async () => (typeof source === 'function' ? source() : source))();
    loading.then(
      (loaded) => {
        model = loaded;
        state = 'ready';
      },
      (error: unknown) => {
        if (typeof source === 'function' && isPassing(error)) {
          state = 'unloaded';
          loading = undefined;
        } else {
          state = 'failed';
        }
      },
    );
    return loading;
  }

  if (source !== undefined && typeof source !== 'function') {
    if ('then' in source) {
      void load();
    } else {
      model = source;
      loading = Promise.resolve(source);
      state = 'ready';
    }
  }

  return {
    get state() {
      return state;
    },
    get model() {
      return model;
    },
    load,
  };
}

/** A missing connection comes back and a cancelled download may be wanted later; a device stays what it is. */
function isPassing(error: unknown): boolean {
  return error instanceof HaikuqError && (error.code === 'network' || error.code === 'aborted');
}
