/** After the first visit the app needs no server. */

import { choose, keepSettings, ready, say } from './support/app.ts';
import { whole } from './support/packages.ts';
import { expect, PROMPT, test } from './support/test.ts';

test('with the server gone the app loads, and its model answers', async ({ browser, faulty }) => {
  const page = await (await browser.newContext()).newPage();
  await keepSettings(page, { temperature: 0, maxTokens: 6 });
  await page.goto(faulty.url);
  await choose(page, whole);
  const answer = await say(page, PROMPT);
  await page.evaluate(() => navigator.serviceWorker.ready);

  await faulty.goDown();
  faulty.requests.length = 0;
  await page.reload();
  await page.getByTestId('open-last').click();
  await ready(page);
  expect(await say(page, PROMPT)).toBe(answer);
  // The earlier conversation is there too.
  await expect(page.getByTestId('conversation-list').getByRole('listitem')).toHaveCount(2);
  expect(faulty.requests).toEqual([]);
  await page.context().close();
});

test('a newer version of the app is offered, and taken with the user’s consent', async ({ browser, faulty }) => {
  const page = await (await browser.newContext()).newPage();
  await page.goto(faulty.url);
  await page.evaluate(() => navigator.serviceWorker.ready);
  const script = await (await fetch(`${faulty.url}sw.js`)).text();
  faulty.answer.set('/sw.js', (_, response) =>
    response.setHeader('content-type', 'text/javascript').end(`${script}\n// The next version.\n`),
  );
  await page.reload();
  const offer = page.getByRole('status').filter({ hasText: 'A newer version of this app is ready.' });
  await expect(offer).toBeVisible();

  const reloaded = page.waitForEvent('load');
  await offer.getByRole('button', { name: 'Reload' }).click();
  await reloaded;
  await expect(page.getByTestId('package').first()).toBeVisible();
  await expect(offer).toBeHidden();
  await page.context().close();
});

test('the app is installable: its manifest names icons that are there', async ({ browser, server }) => {
  const page = await (await browser.newContext()).newPage();
  await page.goto(server.url);
  const { manifest, icons } = await page.evaluate(async () => {
    const link = document.querySelector<HTMLLinkElement>('link[rel="manifest"]')!;
    const manifest = (await (await fetch(link.href)).json()) as {
      name: string;
      display: string;
      start_url: string;
      icons: { src: string; type: string }[];
    };
    const icons = await Promise.all(
      manifest.icons.map(async ({ src }) => (await fetch(new URL(src, link.href))).headers.get('content-type')),
    );
    return { manifest, icons };
  });
  expect(manifest).toMatchObject({ name: 'haikuq', display: 'standalone', start_url: './' });
  expect(icons).toEqual(manifest.icons.map(({ type }) => type));
  await page.context().close();
});
