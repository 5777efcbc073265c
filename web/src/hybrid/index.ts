/** `haikuq/hybrid`: a local model and a cloud behind one chat. */

export { anthropicMessages, type AnthropicOptions } from './anthropic.js';
export type { EndpointOptions } from './endpoint.js';
export { hybrid, type HybridBackend, type HybridOptions, type RouteEvent } from './hybrid.js';
export type { LocalBackend, LocalSource, LocalState } from './local.js';
export { openaiCompatible, type OpenAICompatibleOptions } from './openai-compatible.js';
export type { Route, RouteDecision, RouteFunction, RouteLimits, RouteQuestion, RouteReason, Side } from './route.js';
