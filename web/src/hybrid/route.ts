/** Which side is asked first, and whether the other may step in. */

import { HaikuqError } from '../errors.js';
import type { AdapterInfo, ChatOptions, Message } from '../types.js';
import type { Local, LocalBackend, LocalState } from './local.js';

export type Side = 'local' | 'cloud';

const ROUTES: readonly Route[] = ['local-first', 'cloud-first', 'local-only', 'cloud-only'];
const DECISIONS: readonly RouteDecision[] = ['local', 'cloud', 'local-only', 'cloud-only'];

/**
 * - `local-first`: the local model, or the cloud where that fails.
 * - `cloud-first`: the cloud, or the local model where that fails or the browser is offline.
 * - `local-only`, `cloud-only`: that side or an error; for what must not leave the device, say.
 * - limits: the local model for what is within all of them, else the cloud; either steps in for the other.
 * - a function: decides for each conversation.
 */
export type Route = 'local-first' | 'cloud-first' | 'local-only' | 'cloud-only' | RouteLimits | RouteFunction;

/** What the local model is good enough for. Absent limits hold. */
export interface RouteLimits {
  /**
   * Tokens of the conversation with its template, at most. Counting needs the model: it is loaded for that, unless
   * another limit has spoken before, or `whileLoading` is `cloud`.
   */
  maxPromptTokens?: number;
  /** Characters (UTF-16 units) of all messages together, at most; known without the model. */
  maxPromptCharacters?: number;
  /** Whether this device is able enough. Asked before anything is downloaded; not asked where there is no WebGPU. */
  minDevice?: (device: AdapterInfo) => boolean;
}

export type RouteFunction = (question: RouteQuestion) => RouteDecision | Promise<RouteDecision>;

/** `local` and `cloud` let the other side step in where this one fails; the `-only` ones do not. */
export type RouteDecision = Side | 'local-only' | 'cloud-only';

export interface RouteQuestion {
  messages: readonly Message[];
  options: ChatOptions;
  /** Tokens of the conversation with its template; absent while the local model is not loaded. */
  promptTokens?: number;
  /** The GPU; absent without WebGPU. */
  device?: AdapterInfo;
  /** False where the browser knows that there is no network; true is a guess. */
  online: boolean;
  local: LocalState;
}

/**
 * Why a side was asked: `route` the route named it; `prompt-length` and `device` by a limit of the route; `offline` no
 * network for the cloud; `loading` the local model is not ready yet; `only-side` there is no other; `fallback` the
 * other failed.
 */
export type RouteReason = 'route' | 'prompt-length' | 'device' | 'offline' | 'loading' | 'only-side' | 'fallback';

export interface Plan {
  first: Side;
  reason: RouteReason;
  /** The other side may step in. */
  mayFallBack: boolean;
}

export interface Surroundings {
  route: Route;
  local: Local;
  hasCloud: boolean;
  whileLoading: 'wait' | 'cloud';
  /** Loads the local model; one promise for all who ask about one conversation. */
  loadLocal: () => Promise<LocalBackend>;
  /** The adapter of the device without a model; undefined without WebGPU. */
  probeDevice: () => Promise<AdapterInfo | undefined>;
}

/** @throws `HaikuqError` `invalid-argument` for what is no route. */
export function checkRoute(route: Route): void {
  const known =
    typeof route === 'string' ? ROUTES.includes(route) : typeof route === 'function' || (typeof route === 'object' && route !== null);
  if (!known)
    throw new HaikuqError(
      'invalid-argument',
      `hybrid: route is ${String(route)}; it must be limits, a function, or one of ${ROUTES.join(', ')}`,
    );
}

export async function planRoute(messages: readonly Message[], options: ChatOptions, around: Surroundings): Promise<Plan> {
  const online = globalThis.navigator?.onLine !== false;
  const { decision, reason } = await decide(messages, options, online, around);
  if (decision === 'local-only' || decision === 'cloud-only') {
    return { first: decision === 'local-only' ? 'local' : 'cloud', reason, mayFallBack: false };
  }
  if (!around.hasCloud) return { first: 'local', reason: decision === 'local' ? reason : 'only-side', mayFallBack: false };
  if (around.local.state === 'none') return { first: 'cloud', reason: decision === 'cloud' ? reason : 'only-side', mayFallBack: false };
  if (decision === 'cloud' && !online) return { first: 'local', reason: 'offline', mayFallBack: true };
  if (decision === 'local' && online && around.whileLoading === 'cloud' && !isSettled(around.local)) {
    // In the background; a failure shows when the model is asked the next time.
    around.loadLocal().catch(() => {});
    return { first: 'cloud', reason: 'loading', mayFallBack: true };
  }
  return { first: decision, reason, mayFallBack: true };
}

interface Decision {
  decision: RouteDecision;
  reason: RouteReason;
}

async function decide(messages: readonly Message[], options: ChatOptions, online: boolean, around: Surroundings): Promise<Decision> {
  const { route, local } = around;
  if (typeof route === 'function') {
    const [promptTokens, device] = await Promise.all([
      local.model ? countTokens(local.model, messages) : undefined,
      local.model?.info?.adapter ?? around.probeDevice(),
    ]);
    const decision = await route({
      messages,
      options,
      ...(promptTokens === undefined ? {} : { promptTokens }),
      ...(device === undefined ? {} : { device }),
      online,
      local: local.state,
    });
    if (!DECISIONS.includes(decision)) {
      throw new HaikuqError('invalid-argument', `hybrid: route returned ${String(decision)}; it must be one of ${DECISIONS.join(', ')}`);
    }
    return { decision, reason: 'route' };
  }
  if (typeof route === 'string') {
    const decision = route === 'local-first' ? 'local' : route === 'cloud-first' ? 'cloud' : route;
    return { decision, reason: 'route' };
  }
  return withinLimits(route, messages, around);
}

/** The cheap limits first: nothing is downloaded for a conversation, or a device, that another limit rules out. */
async function withinLimits(limits: RouteLimits, messages: readonly Message[], around: Surroundings): Promise<Decision> {
  const { local } = around;
  const tooLong: Decision = { decision: 'cloud', reason: 'prompt-length' };
  const within: Decision = { decision: 'local', reason: 'route' };
  if (limits.maxPromptCharacters !== undefined) {
    const characters = messages.reduce((sum, { content }) => sum + ((content as string | null)?.length ?? 0), 0);
    if (characters > limits.maxPromptCharacters) return tooLong;
  }
  if (local.state === 'none') return within;
  if (limits.minDevice) {
    const device = local.model?.info?.adapter ?? (await around.probeDevice());
    if (!device || !limits.minDevice(device)) return { decision: 'cloud', reason: 'device' };
  }
  if (limits.maxPromptTokens !== undefined && (around.whileLoading === 'wait' || isSettled(local))) {
    // A model that does not load is found out again when it is asked, and the cloud steps in there.
    const model = await around.loadLocal().catch(() => undefined);
    const tokens = model && (await countTokens(model, messages));
    if (tokens !== undefined && tokens > limits.maxPromptTokens) return tooLong;
  }
  return within;
}

/** Undefined where the model cannot tell, for want of a chat template say. */
async function countTokens(model: LocalBackend, messages: readonly Message[]): Promise<number | undefined> {
  try {
    return await model.countTokens?.(messages);
  } catch {
    return undefined;
  }
}

function isSettled(local: Local): boolean {
  return local.state === 'ready' || local.state === 'failed';
}
