/** The shape of OpenAI's client, over any chat backend. */

import { invalid } from '../options.js';
import type {
  ChatBackend,
  OpenAICompletion,
  OpenAICompletions,
  OpenAIModel,
  OpenAIModelList,
  OpenAIModels,
  OpenAIPromise,
  OpenAIRequest,
  OpenAIRequestOptions,
  OpenAIShape,
  OpenAIStream,
} from '../types.js';
import { type Answer, newAnswer, secondsNow, toChunks, toCompletion, toStream } from './answer.js';
import { createFetch, toResponse } from './fetch.js';
import { type Asked, readRequest } from './request.js';

/** `modelName` is what answers call the model where the request does not. */
export function createOpenAI(backend: ChatBackend, modelName: string): OpenAIShape {
  async function answer(request: OpenAIRequest, { signal }: OpenAIRequestOptions = {}): Promise<OpenAICompletion | OpenAIStream> {
    const asked = readRequest(request);
    const answer = newAnswer(request.model ?? modelName);
    if (request.stream) return streamAnswer(backend, asked, answer, signal ?? undefined);
    const stream = backend.chat(asked.messages, { ...asked.options, ...(signal ? { signal } : {}) });
    return toCompletion(await stream.result, answer);
  }
  const create = (request: OpenAIRequest, options?: OpenAIRequestOptions) => withResponses(answer(request, options));
  const shape: Omit<OpenAIShape, 'fetch'> = {
    chat: { completions: { create: create as OpenAICompletions['create'] } },
    models: createModels({ id: modelName, object: 'model', created: secondsNow(), owned_by: 'haikuq' }),
  };
  return { ...shape, fetch: createFetch(shape) };
}

/** As with OpenAI's client, an abort ends the iteration without an error. */
function streamAnswer(
  backend: ChatBackend,
  { messages, options, includeUsage }: Asked,
  answer: Answer,
  signal?: AbortSignal,
): OpenAIStream {
  const controller = new AbortController();
  const abort = () => controller.abort();
  if (signal?.aborted) abort();
  signal?.addEventListener('abort', abort, { once: true });
  const text = backend.chat(messages, { ...options, signal: controller.signal });
  const unlink = () => signal?.removeEventListener('abort', abort);
  text.result.then(unlink, unlink);
  return toStream(toChunks(text, answer, includeUsage, controller.signal), controller);
}

function withResponses<T extends OpenAICompletion | OpenAIStream>(answer: Promise<T>): OpenAIPromise<T> {
  return Object.assign(answer, {
    asResponse: async () => toResponse(await answer),
    async withResponse() {
      const data = await answer;
      // A stream's chunks are read from `data`; its response has the headers alone.
      const response =
        'controller' in data ? new Response(null, { headers: { 'content-type': 'text/event-stream' } }) : await toResponse(data);
      return { data, response, request_id: null };
    },
  });
}

function createModels(model: OpenAIModel): OpenAIModels {
  async function* each() {
    yield model;
  }
  const list: OpenAIModelList & AsyncIterable<OpenAIModel> = { object: 'list', data: [model], [Symbol.asyncIterator]: each };
  return {
    list: () => Object.assign(Promise.resolve(list), { [Symbol.asyncIterator]: each }),
    async retrieve(id) {
      if (id !== model.id) throw invalid('model', id, `"${model.id}", the one model that there is`);
      return model;
    },
  };
}
