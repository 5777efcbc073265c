// Adds a provider's key to requests of your page: ORIGIN=https://your.site MODEL=… ANTHROPIC_API_KEY=… node proxy.mjs
// Put your login and your rate limits before it: only browsers are honest about their origin.
import { createServer } from 'node:http';
import { Readable } from 'node:stream';
import { json } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';

const { env } = process;
const apis = {
  '/api/anthropic': {
    url: env.ANTHROPIC_URL ?? 'https://api.anthropic.com/v1/messages',
    headers: { 'x-api-key': env.ANTHROPIC_API_KEY, 'anthropic-version': '2023-06-01' },
  },
  '/api/openai': {
    url: env.OPENAI_URL ?? 'https://api.openai.com/v1/chat/completions',
    headers: { authorization: `Bearer ${env.OPENAI_API_KEY}` },
  },
};
const passedOn = ['messages', 'system', 'stop', 'stop_sequences', 'temperature', 'top_p', 'top_k', 'seed', 'stream_options'];
const refusal = (status, message) => Object.assign(new Error(message), { status });

const server = createServer(async (request, response) => {
  try {
    const api = apis[request.url];
    if (!api || request.method !== 'POST') throw refusal(404, 'not found');
    if (!env.ORIGIN || request.headers.origin !== env.ORIGIN) throw refusal(403, 'wrong origin');
    if (!(request.headers['content-length'] <= 65536)) throw refusal(413, 'at most 64 KiB');
    const asked = Object(
      await json(request).catch(() => {
        throw refusal(400, 'no JSON');
      }),
    );
    const limit = 'max_completion_tokens' in asked ? 'max_completion_tokens' : 'max_tokens';
    const body = { model: env.MODEL, stream: true, [limit]: Math.min(asked[limit] ?? Infinity, env.MAX_TOKENS ?? 1024) };
    for (const field of passedOn) body[field] = asked[field];
    const gone = new AbortController();
    response.on('close', () => gone.abort());
    const answer = await fetch(api.url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...api.headers },
      body: JSON.stringify(body),
      signal: gone.signal,
    });
    if (answer.status === 401 || answer.status === 403) throw refusal(502, 'the provider refuses the key');
    response.writeHead(
      answer.status,
      ['content-type', 'retry-after'].flatMap((name) => (answer.headers.get(name) ? [name, answer.headers.get(name)] : [])),
    );
    await pipeline(Readable.fromWeb(answer.body), response);
  } catch (error) {
    if (response.headersSent) return response.destroy();
    const message = error.status ? error.message : 'the provider cannot be reached';
    response.writeHead(error.status ?? 502, { 'content-type': 'application/json' }).end(JSON.stringify({ error: { message } }));
  }
});
server.listen(env.PORT ?? 8787, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`));
