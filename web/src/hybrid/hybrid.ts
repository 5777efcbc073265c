/** Two sides, one chat. */

import { HaikuqError } from '../errors.js';
import type { AdapterInfo, ChatBackend, ChatOptions, DeviceOptions, GenerationResult, Message, TextStream } from '../types.js';
import { probeDevice } from './device.js';
import { type LocalBackend, localOf, type LocalSource, type LocalState } from './local.js';
import { checkRoute, type Plan, planRoute, type Route, type RouteReason, type Side } from './route.js';
import { toHaikuqError } from '../failures.js';
import { abortable, makeTextStream, plainResult, stopwatch } from './stream.js';

export interface HybridOptions {
  /** The model in the browser. Where loading it fails (no WebGPU, too little memory, …) the cloud answers. */
  local?: LocalSource | undefined;
  /** An adapter: `anthropicMessages`, `openaiCompatible`, or a `ChatBackend` of one's own. */
  cloud?: ChatBackend | undefined;
  /** Default `local-first`. */
  route?: Route;
  /**
   * What happens to local conversations until the model is loaded. `wait` (default): they wait for it. `cloud`: the
   * cloud answers them, while the model loads in the background.
   */
  whileLoading?: 'wait' | 'cloud';
  /**
   * What `load` is told by this name: `minDevice`, and a function that routes, are asked about the adapter of this
   * `powerPreference`, and the model gets the same one where it is loaded on the page's own thread.
   */
  device?: Pick<DeviceOptions, 'powerPreference'>;
  /** Called once for each answer, as soon as its first text is there. */
  onRoute?: (event: RouteEvent) => void;
}

export interface RouteEvent {
  answeredBy: Side;
  reason: RouteReason;
  /** The side that was asked before and failed. */
  fallbackFrom?: Side;
  /** What it failed of. */
  error?: HaikuqError;
}

export interface HybridBackend extends ChatBackend {
  /** Where the local model is; `failed` stays, save for a loader whose download broke or was cancelled. */
  readonly localState: LocalState;
  /** Loads the local model before it is needed. Rejects with what loading failed of. */
  preload(): Promise<void>;
}

/**
 * A chat that a local model and a cloud share. `result.answeredBy` says who answered.
 *
 * The other side steps in where the first fails before any text was given out: later the two would be mixed, so that
 * failures midway are thrown, with the text until then in `error.details.partialText`. Nothing steps in after `aborted`
 * or `invalid-argument`. A conversation too long for the local model is trimmed by it; with `overflow: 'refuse'` it
 * goes to the cloud.
 *
 * @throws `HaikuqError` `invalid-argument` where neither side is given, or no known route.
 */
export function hybrid(options: HybridOptions): HybridBackend {
  const { cloud, route = 'local-first', whileLoading = 'wait', device = {}, onRoute } = options;
  if (options.local === undefined && cloud === undefined) {
    throw new HaikuqError('invalid-argument', 'hybrid: neither local nor cloud is given');
  }
  checkRoute(route);
  const local = localOf(options.local);
  let probing: Promise<AdapterInfo | undefined> | undefined;
  // A device stays what it is; where there is none, the browser may find one later.
  const probe = () =>
    (probing ??= probeDevice(device).then((found) => {
      if (!found) probing = undefined;
      return found;
    }));

  async function answer(
    messages: readonly Message[],
    chatOptions: ChatOptions,
    emit: (text: string) => void,
    signal: AbortSignal,
  ): Promise<GenerationResult> {
    const watch = stopwatch();
    let text = '';
    let side: Side = options.local === undefined ? 'cloud' : 'local';
    let loading: Promise<LocalBackend> | undefined;
    let loadFailed = false;
    const loadLocal = () => (loading ??= local.load());

    async function ask(): Promise<Opened> {
      if (side === 'cloud') {
        if (!cloud) throw new HaikuqError('invalid-argument', 'hybrid: the route chose the cloud, and none is given');
        return open(cloud, messages, chatOptions, signal);
      }
      let model: LocalBackend;
      try {
        model = await abortable(loadLocal(), signal);
      } catch (error) {
        loadFailed = true;
        throw error;
      }
      return open(model, messages, chatOptions, signal);
    }

    /** Asks the first side, and the other where the first fails before its first text. */
    async function askBoth(plan: Plan): Promise<{ opened: Opened; event: RouteEvent }> {
      side = plan.first;
      let first: HaikuqError;
      try {
        return { opened: await ask(), event: { answeredBy: side, reason: plan.reason } };
      } catch (thrown) {
        first = toHaikuqError(thrown);
        if (signal.aborted || !plan.mayFallBack || isFinal(first, loadFailed)) throw first;
      }
      side = other(plan.first);
      try {
        const event: RouteEvent = { answeredBy: side, reason: 'fallback', fallbackFrom: plan.first, error: first };
        return { opened: await ask(), event };
      } catch (thrown) {
        throw bothFailed(plan.first, first, toHaikuqError(thrown));
      }
    }

    try {
      const around = { route, local, hasCloud: cloud !== undefined, whileLoading, loadLocal, probeDevice: probe };
      const { opened, event } = await askBoth(await abortable(planRoute(messages, chatOptions, around), signal));
      const result = await drain(
        opened,
        signal,
        () => onRoute?.(event),
        (piece) => {
          watch.mark();
          text += piece;
          emit(piece);
        },
      );
      // From this call on, with what routing, loading and a first failure took.
      const { timeToFirstTokenMs } = watch.timings(0);
      return { ...result, answeredBy: side, timings: { ...result.timings, timeToFirstTokenMs } };
    } catch (error) {
      if (signal.aborted) return plainResult(side, text, 'cancelled', watch.timings(0));
      throw error;
    }
  }

  return {
    get localState() {
      return local.state;
    },
    preload: async () => {
      await local.load();
    },
    chat: (messages, chatOptions = {}): TextStream =>
      makeTextStream((emit, signal) => answer(messages, chatOptions, emit, signal), chatOptions.signal),
  };
}

/** An answer of which the first text is there, or which ended without any. */
interface Opened {
  stream: TextStream;
  iterator: AsyncIterator<string>;
  text: string;
}

/** Asks a side, and waits until it cannot fail before the first text any more. */
async function open(backend: ChatBackend, messages: readonly Message[], options: ChatOptions, signal: AbortSignal): Promise<Opened> {
  const stream = backend.chat(messages, { ...options, signal });
  // Failures are seen by the iteration; the same one must not be reported as unhandled.
  stream.result.catch(() => {});
  const iterator = stream[Symbol.asyncIterator]();
  for (;;) {
    const { done, value } = await iterator.next();
    if (done) return { stream, iterator, text: '' };
    if (value !== '') return { stream, iterator, text: value };
  }
}

async function drain(
  { stream, iterator, text }: Opened,
  signal: AbortSignal,
  onOpen: () => void,
  emit: (text: string) => void,
): Promise<GenerationResult> {
  try {
    if (!signal.aborted) onOpen();
    if (text !== '') emit(text);
    for (;;) {
      const { done, value } = await iterator.next();
      if (done) break;
      if (value !== '') emit(value);
    }
  } catch (error) {
    // Nobody reads on, whatever it was.
    stream.abort();
    // An aborted stream throws, and its result says `cancelled`.
    if (!signal.aborted) throw error;
  }
  return stream.result;
}

/**
 * Failures that are the caller's, which the other side would only hide. A download that the user cancelled is none: the
 * conversation goes on without the local model.
 */
function isFinal(error: HaikuqError, loadFailed: boolean): boolean {
  return error.code === 'invalid-argument' || (error.code === 'aborted' && !loadFailed);
}

function bothFailed(firstSide: Side, first: HaikuqError, second: HaikuqError): HaikuqError {
  const message = `neither side answered; ${firstSide}: ${first.message}; ${other(firstSide)}: ${second.message}`;
  return new HaikuqError(second.code, message, second.details, { cause: new AggregateError([first, second], message) });
}

function other(side: Side): Side {
  return side === 'local' ? 'cloud' : 'local';
}
