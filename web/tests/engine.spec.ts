/** What the engine is given by the page: the adapter that was asked for, and all that a chat template reads. */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { whole } from './support/packages.ts';
import { expect, load, openLab, test } from './support/test.ts';

test('one adapter is asked for, with the caller’s preference, and kernels are told of while they compile', async ({ lab: page }) => {
  const { asked, described, progress, silence, took } = await page.evaluate(async (url) => {
    const asked: (string | undefined)[] = [];
    const prototype = Object.getPrototypeOf(navigator.gpu) as GPU;
    const { requestAdapter } = prototype;
    prototype.requestAdapter = function (options) {
      asked.push(options?.powerPreference);
      return requestAdapter.call(this, options);
    };
    const start = performance.now();
    const times = [start];
    const progress: { phase: string; kernels?: { compiled: number; total: number } }[] = [];
    window.model = await window.haikuq.load(url, {
      worker: false,
      device: { powerPreference: 'low-power' },
      onProgress: (now) => (times.push(performance.now()), progress.push(now)),
    });
    const silence = Math.max(...times.slice(1).map((time, i) => time - times[i]!));
    return { asked, described: window.model.info.adapter, progress, silence, took: performance.now() - start };
  }, `/packages/${whole.name}/`);
  expect(asked).toEqual(['low-power']);
  expect(described.software).toBe(true);
  const compiling = progress.filter(({ phase }) => phase === 'compile').map(({ kernels }) => kernels!);
  expect(compiling[0]!.compiled).toBe(0);
  expect(compiling.at(-1)!.compiled).toBe(compiling.at(-1)!.total);
  expect(compiling.length).toBeGreaterThan(2);
  expect(silence).toBeLessThan(took / 2);

  await test.step('without a preference after a lost device as well', async () => {
    await page.evaluate(() => window.model.loseDevice());
    expect(await page.evaluate(() => window.model.generate('A dog', { temperature: 0, maxTokens: 2 }).result)).toMatchObject({
      recoveries: 1,
    });
  });
});

test('the chat template gets messages with their fields, tools, documents and variables', async ({ browser, faulty }) => {
  const config = JSON.parse(readFileSync(join(whole.folder, 'tokenizer_config.json'), 'utf8')) as Record<string, unknown>;
  config.chat_template =
    '{{ enable_thinking }} {{ tools[0].function.name }} {{ documents[0].title }} {{ messages[-1].tool_call_id }}: {{ wide + 1 if wide is defined }}{{ messages[-1].content }}{% if add_generation_prompt %} .{% endif %}';
  const changed = Buffer.from(JSON.stringify(config));
  const manifest = JSON.parse(readFileSync(join(whole.folder, 'haikuq.json'), 'utf8')) as {
    files: { name: string; bytes: number; sha256: string }[];
  };
  const entry = manifest.files.find(({ name }) => name === 'tokenizer_config.json')!;
  Object.assign(entry, { bytes: changed.length, sha256: createHash('sha256').update(changed).digest('hex') });
  const serve = (path: string, bytes: string | Buffer) =>
    faulty.answer.set(`/packages/${whole.name}/${path}`, (_, response) =>
      response.setHeader('content-type', 'application/json').end(bytes),
    );
  serve('haikuq.json', JSON.stringify(manifest));
  serve('tokenizer_config.json', changed);

  const page = await openLab(await browser.newContext(), faulty);
  expect((await load(page, whole)).error).toBeUndefined();
  const [counted, wanted] = await page.evaluate(async () => {
    const messages = [
      { role: 'user', content: 'Hi' },
      { role: 'tool', content: 'The cat is in the garden', tool_call_id: 'seven' },
    ];
    const given = {
      tools: [{ type: 'function', function: { name: 'weather' } }],
      documents: [{ title: 'birds' }],
      chatTemplateKwargs: { enable_thinking: false },
    };
    const texts = ['False weather birds seven: The cat is in the garden .', 'False weather birds seven: The cat is in the garden'];
    const open = { ...given, continueFinalMessage: true };
    // Beyond 64 bits.
    const wide = { ...given, chatTemplateKwargs: { enable_thinking: false, wide: 2n ** 64n - 1n }, continueFinalMessage: true };
    texts.push('False weather birds seven: 18446744073709551616The cat is in the garden');
    return [
      [
        await window.model.countTokens(messages, given),
        await window.model.countTokens(messages, open),
        await window.model.countTokens(messages, wide),
      ],
      await Promise.all(texts.map((text) => window.model.countTokens(text))),
    ];
  });
  expect(counted).toEqual(wanted);
  await page.context().close();
});
