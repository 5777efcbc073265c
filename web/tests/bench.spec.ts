/** The benchmark page, begun by its address. */

import { whole } from './support/packages.ts';
import { expect, test } from './support/test.ts';

test('?auto=1 measures and gives a result as JSON', async ({ browser, server }) => {
  const page = await (await browser.newContext()).newPage();
  await page.goto(`${server.url}bench/?auto=1&package=packages/${whole.name}/&prompts=8,24&outputs=4&repeat=1&warmup=0`);
  const report = await page.evaluate(() => (window as unknown as { haikuqBench: Promise<Record<string, unknown>> }).haikuqBench);
  expect(report).toMatchObject({
    schema: 'haikuq-bench-web/1',
    package: { name: whole.name, recipe: 'q4-fast', manifestSha256: expect.stringMatching(/^[0-9a-f]{64}$/) },
    adapter: { limits: { maxBufferSize: expect.any(Number) } },
    memory: { loaded: { weights: expect.any(Number) } },
    results: [
      { promptTokens: 8, outputTokens: 4, runs: [{ outputTokens: 4 }] },
      { promptTokens: 24, outputTokens: 4, runs: [{ outputTokens: 4 }] },
    ],
  });
  await expect(page.getByTestId('bench-table')).toBeVisible();
  expect(JSON.parse((await page.getByTestId('bench-json').textContent())!)).toEqual(report);
  await page.context().close();
});
