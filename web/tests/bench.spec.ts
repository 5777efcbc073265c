/** The benchmark page, begun by its address. */

import type { ModelProfile } from 'haikuq';
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
  expect(report['profile']).toBeNull();
  await expect(page.getByTestId('bench-table')).toBeVisible();
  expect(JSON.parse((await page.getByTestId('bench-json').textContent())!)).toEqual(report);
  await page.context().close();
});

test('?profile=1 takes a step of prefill and one of decode apart', async ({ browser, server }, info) => {
  const page = await (await browser.newContext()).newPage();
  const asked = 'prompts=24&outputs=2&repeat=1&warmup=0&numerics=exact&profile=1';
  await page.goto(`${server.url}bench/?auto=1&package=packages/${whole.name}/&${asked}`);
  const report = await page.evaluate(() => (window as unknown as { haikuqBench: Promise<Profiled> }).haikuqBench);
  const offered = await page.evaluate(async () => (await navigator.gpu.requestAdapter())!.features.has('timestamp-query'));
  expect(report).toMatchObject({ package: { numerics: 'exact' }, options: { numerics: 'exact', pins: {}, profile: true } });

  const { steps, timestampMs, readBytesPerSecond } = report.profile;
  expect(steps.map(({ phase, tokens, depth }) => [phase, tokens, depth])).toEqual([
    ['prefill', 24, 0],
    ['decode', 1, 24],
  ]);
  expect(readBytesPerSecond).toBeGreaterThan(1e6);
  expect(timestampMs !== null).toBe(offered);
  for (const { gpuMs, encodeMs, submitMs, waitMs, dispatches, operations } of steps) {
    expect(Math.min(encodeMs, submitMs, waitMs)).toBeGreaterThanOrEqual(0);
    expect(operations.reduce((sum, operation) => sum + operation.dispatches, 0)).toBe(dispatches);
    // Eight layers; the head is the embedding, 4096 × 256 weights of 8 bits.
    expect(operations).toContainEqual(expect.objectContaining({ operation: 'down', count: 8 }));
    expect(operations.find(({ operation }) => operation === 'embedding')?.bytes).toBeGreaterThan(4096 * 256);
    for (const time of [gpuMs, ...operations.map((operation) => operation.gpuMs)]) {
      if (offered) expect(time).toBeGreaterThan(0);
      else expect(time).toBeNull();
    }
    // Of operations that are repeated by themselves; a step is some of each.
    if (offered) expect(operations.reduce((sum, operation) => sum + operation.gpuMs!, 0)).toBeGreaterThan(gpuMs! / 4);
  }

  for (const { phase, operations } of steps) {
    await expect(page.getByTestId(`bench-profile-${phase}`).locator('tbody tr')).toHaveCount(operations.length);
  }
  const words = offered ? /timestamps|mean of many/ : /no timestamp-query/;
  await expect(page.getByTestId('bench-profile-hint')).toContainText(words);
  await page.screenshot({ path: info.outputPath('profile.png'), fullPage: true });
  await page.context().close();
});

interface Profiled {
  package: { numerics: string };
  profile: ModelProfile;
}
