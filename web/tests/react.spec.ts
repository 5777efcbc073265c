/** The React hooks, in a page of the tests. */

import { whole } from './support/packages.ts';
import { expect, test } from './support/test.ts';

test('useModel loads a package and useChat talks with it', async ({ browser, server }) => {
  const page = await (await browser.newContext()).newPage();
  await page.goto(`${server.url}tests/react.html?package=/packages/${whole.name}/`);
  await expect(page.getByTestId('status')).toHaveText('ready');
  await page.getByLabel('Message').fill('Tell me about the sea.');
  await page.getByRole('button', { name: 'Send' }).click();
  await expect(page.locator('li[data-role="user"]')).toHaveText('Tell me about the sea.');
  await expect(page.locator('li[data-role="assistant"]')).toContainText(/\w+ \w+/);
  await expect(page.getByTestId('chat-status')).toHaveText('idle');

  await page.goto(`${server.url}tests/react.html?package=/packages/absent/`);
  await expect(page.getByTestId('status')).toHaveText('error');
  await expect(page.getByTestId('error')).toHaveText('network');
  await page.context().close();
});
