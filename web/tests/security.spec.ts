/** What a page must not do: run what somebody wrote, or talk to others. */

import type { Page } from '@playwright/test';
import { keepSettings, say } from './support/app.ts';
import { anthropicEndpoint } from './support/cloud.ts';
import { hostile, MARKUP } from './support/packages.ts';
import { expect, PROMPT, test } from './support/test.ts';

const ATTEMPTS = [
  MARKUP,
  '<script>window.injected=2</script>',
  '<svg onload="window.injected=3"></svg>',
  '[a link](javascript:window.injected=4) ![](https://example.org/pixel.png)',
  '</div><iframe srcdoc="<script>parent.injected=5</script>"></iframe>',
].join('\n');

interface Watched {
  /** Origins of all requests of the page, its workers and its service worker. */
  origins: Set<string>;
  /** What the content security policy refused. */
  violations(): Promise<string[]>;
  injected(): Promise<unknown>;
}

async function watch(page: Page): Promise<Watched> {
  const origins = new Set<string>();
  page.context().on('request', (request) => {
    const url = new URL(request.url());
    if (url.protocol.startsWith('http') || url.protocol.startsWith('ws')) origins.add(url.origin);
  });
  await page.addInitScript(() => {
    const violations: string[] = [];
    Object.assign(window, { violations });
    document.addEventListener('securitypolicyviolation', ({ effectiveDirective, blockedURI }) =>
      violations.push(`${effectiveDirective} ${blockedURI}`),
    );
  });
  return {
    origins,
    violations: () => page.evaluate(() => (window as unknown as { violations: string[] }).violations),
    injected: () => page.evaluate(() => (window as unknown as { injected?: number }).injected ?? null),
  };
}

test('markup in prompts, answers, titles and names is shown as text, and all requests go to the site', async ({ browser, faulty }) => {
  const page = await (await browser.newContext()).newPage();
  const watched = await watch(page);
  page.on('dialog', (dialog) => expect(dialog.message(), 'no dialog opens').toBe(''));
  const name = `${hostile.name} ${MARKUP}`;
  const offered = { packages: [{ name, url: `packages/${hostile.name}/`, recipe: MARKUP }] };
  faulty.answer.set('/packages/index.json', (_, response) =>
    response.setHeader('content-type', 'application/json').end(JSON.stringify(offered)),
  );
  await keepSettings(page, { temperature: 0, maxTokens: 8 });
  await page.goto(faulty.url);
  await expect(page.getByTestId('package')).toContainText(MARKUP);
  await page.getByTestId('package').click();
  await expect(page.getByTestId('prompt')).toBeVisible();

  // The model itself writes markup.
  const answer = await say(page, PROMPT);
  expect(answer).toContain(MARKUP);
  await say(page, ATTEMPTS);
  await expect(page.getByTestId('message-user').last()).toHaveText(ATTEMPTS, { useInnerText: true });
  await page.getByTestId('setting-system').fill(ATTEMPTS);
  await page.getByTestId('new-conversation').click();
  await say(page, MARKUP);
  await expect(page.getByTestId('conversation-list')).toContainText(MARKUP);
  await page.getByTestId('conversation-list').getByRole('button', { name: PROMPT }).first().click();
  await expect(page.getByTestId('message-assistant').first()).toHaveText(answer);

  expect(await page.locator('img, iframe, object, embed, a[href^="javascript:"]').count()).toBe(0);
  expect(await page.locator('[data-testid^="message-"] *, [data-testid="conversation-list"] :is(script, svg[onload])').count()).toBe(0);
  expect(await watched.injected()).toBeNull();
  expect(await watched.violations()).toEqual([]);
  expect([...watched.origins]).toEqual([new URL(faulty.url).origin]);
  await page.context().close();
});

test('markup in a cloud’s answer arrives as text', async ({ browser, faulty }) => {
  const cloud = anthropicEndpoint();
  cloud.answer = { pieces: ATTEMPTS.split(/(?<=>)/) };
  faulty.answer.set('/api/anthropic', cloud.handle);
  const page = await (await browser.newContext()).newPage();
  const watched = await watch(page);
  await page.goto(`${faulty.url}tests/react.html?cloud=/api/anthropic`);
  await page.getByLabel('Message').fill('Hello');
  await page.getByRole('button', { name: 'Send' }).click();
  await expect(page.getByTestId('chat-status')).toHaveText('idle');
  await expect(page.locator('li[data-role="assistant"]')).toHaveText(ATTEMPTS);
  expect(await page.locator('li *').count()).toBe(0);
  expect(await watched.injected()).toBeNull();
  expect([...watched.origins]).toEqual([new URL(faulty.url).origin]);
  await page.context().close();
});

for (const [where, dropHeader] of [
  ['the server’s header', undefined],
  ['the page alone, on hosts that send no header', 'content-security-policy'],
] as const) {
  test(`scripts in the page and other hosts are refused by the policy in ${where}`, async ({ browser, faulty }) => {
    if (dropHeader) faulty.fault = () => ({ dropHeader });
    const page = await (await browser.newContext()).newPage();
    const watched = await watch(page);
    const response = await page.goto(faulty.url);
    expect(response!.headers()['content-security-policy'] === undefined).toBe(dropHeader !== undefined);
    const reached = await page.evaluate(async (markup) => {
      document.body.insertAdjacentHTML('beforeend', markup);
      const script = document.createElement('script');
      script.textContent = 'window.injected = 6';
      document.body.append(script);
      return fetch('https://example.org/', { mode: 'no-cors' }).then(
        () => true,
        () => false,
      );
    }, MARKUP);
    await expect
      .poll(watched.violations)
      .toEqual(expect.arrayContaining(['script-src-elem inline', 'script-src-attr inline', 'connect-src https://example.org/']));
    expect(await watched.injected()).toBeNull();
    expect(reached).toBe(false);
    await page.context().close();
  });
}
