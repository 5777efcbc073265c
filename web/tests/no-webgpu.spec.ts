/** Browsers without WebGPU: a message that helps, and the cloud. */

import { type Browser, chromium, type Page } from '@playwright/test';
import { chromiumFlags, findChromium } from '../scripts/browser.mjs';
import { anthropicEndpoint } from './support/cloud.ts';
import { filesOf, whole } from './support/packages.ts';
import { expect, load, openLab, PROMPT, test } from './support/test.ts';

let browser: Browser;
test.beforeAll(async () => {
  browser = await chromium.launch({ executablePath: findChromium(), args: chromiumFlags });
});
test.afterAll(() => browser.close());

const hasAdapter = (page: Page) => page.evaluate(async () => Boolean(await navigator.gpu?.requestAdapter()));

test('loading says so before anything is downloaded, and the cloud answers', async ({ faulty }) => {
  const page = await openLab(await browser.newContext(), faulty);
  expect(await hasAdapter(page), 'this browser was to have no adapter').toBe(false);
  expect((await load(page, whole)).error).toMatchObject({ code: 'webgpu-unavailable' });

  const cloud = anthropicEndpoint();
  cloud.answer = { pieces: ['From ', 'the ', 'cloud.'] };
  faulty.answer.set('/api/anthropic', cloud.handle);
  const { result, events } = await page.evaluate(
    async ([url, content]) => {
      const events: { answeredBy: string; reason: string; error: string | undefined }[] = [];
      const backend = window.hybrid.hybrid({
        local: () => window.haikuq.load(url),
        cloud: window.hybrid.anthropicMessages({ endpoint: '/api/anthropic', model: 'a-model', maxTokens: 64 }),
        onRoute: ({ answeredBy, reason, error }) => void events.push({ answeredBy, reason, error: error?.code }),
      });
      return { ...(await window.lab.hear(backend.chat([{ role: 'user', content }]))), events };
    },
    [`/packages/${whole.name}/`, PROMPT] as const,
  );
  expect(result).toMatchObject({ text: 'From the cloud.', answeredBy: 'cloud' });
  expect(events).toEqual([{ answeredBy: 'cloud', reason: 'fallback', error: 'webgpu-unavailable' }]);
  expect(faulty.packageFiles().filter(({ file }) => filesOf(whole).some(({ name }) => name === file))).toEqual([]);
  await page.context().close();
});

test('the app explains what to do', async ({ faulty }) => {
  const page = await (await browser.newContext()).newPage();
  await page.goto(faulty.url);
  const card = page.getByTestId('error');
  await expect(card).toHaveAttribute('data-code', 'webgpu-unavailable');
  await expect(card).toContainText('This browser offers no WebGPU');
  await expect(card).toContainText('graphics acceleration');
  // The page says so before anything is chosen, and again to a user who tries all the same.
  await page.getByTestId('package').first().click();
  await expect(card).toHaveAttribute('data-code', 'webgpu-unavailable');
  expect(faulty.weights()).toEqual([]);
  await page.context().close();
});
