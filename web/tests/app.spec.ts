/** The chat app as its users meet it: one visit after the other, in one profile. */

import { AxeBuilder } from '@axe-core/playwright';
import type { Page } from '@playwright/test';
import { answered, choose, keepSettings, ready, say } from './support/app.ts';
import { whole } from './support/packages.ts';
import { expect, PROMPT, test } from './support/test.ts';

test.describe.configure({ mode: 'serial' });

let page: Page;
test.beforeAll(async ({ browser, server }) => {
  page = await (await browser.newContext()).newPage();
  await keepSettings(page, { temperature: 0, maxTokens: 8 });
  await page.goto(server.url);
});
test.afterAll(() => page.context().close());

const question = () => page.getByTestId('message-user').last();
const answer = () => page.getByTestId('message-assistant').last();

/** Violations of WCAG 2.2 A and AA that axe finds, in words. */
async function violations(): Promise<string[]> {
  const { violations } = await new AxeBuilder({ page }).withTags(['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']).analyze();
  return violations.flatMap(({ id, nodes }) =>
    nodes.map(({ target, failureSummary }) => `${id} ${target.join(' ')}: ${failureSummary ?? ''}`),
  );
}

async function violationsInBothThemes(): Promise<string[]> {
  const found: string[] = [];
  for (const colorScheme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme });
    found.push(...(await violations()));
  }
  await page.emulateMedia({ colorScheme: null });
  return found;
}

/** Pixels that the page is wider than the window. */
const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

test('the start page lists the server’s packages and is accessible, in light and dark', async () => {
  await expect(page.getByTestId('package').filter({ hasText: whole.name }).first()).toContainText('q4');
  expect(await violationsInBothThemes()).toEqual([]);
});

test('a package that is picked shows its progress in bytes and becomes a chat', async () => {
  const phases = page.evaluate(
    () =>
      new Promise<string[]>((resolve) => {
        const seen = new Set<string>();
        const observer = new MutationObserver(() => {
          const load = document.querySelector<HTMLElement>('[data-testid="load-progress"]');
          // biome-ignore lint/performance/useDomNodeTextContent: only what is seen counts
          if (load) seen.add(`${load.dataset['phase']} ${/\d [kM]?B of \d/.test(load.innerText) ? 'in bytes' : ''}`);
          if (!document.querySelector('[data-testid="prompt"]')) return;
          observer.disconnect();
          resolve([...seen]);
        });
        observer.observe(document.body, { childList: true, subtree: true, attributes: true, characterData: true });
      }),
  );
  await choose(page, whole);
  // How many of the phases last long enough to be drawn depends on the machine.
  expect((await phases).filter((phase) => phase.endsWith('in bytes'))).not.toEqual([]);
  await expect(page.getByTestId('prompt')).toBeFocused();
});

test('an answer streams, and says how fast it was; the panel says where it ran and what it takes', async () => {
  await page.getByTestId('prompt').fill(PROMPT);
  await page.getByTestId('send').click();
  await expect(page.getByTestId('stop')).toBeVisible();
  await expect(question()).toHaveText(PROMPT);
  await expect(answer()).toHaveText(/\w+/);
  await answered(page);
  await expect(page.getByTestId('stats')).toHaveText(/[\d.]+ tokens\/s · first after .+ · 8 tokens · prompt of \d+/);
  await expect(page.getByTestId('status-panel')).toContainText('swiftshader', { ignoreCase: true });
  await expect(page.getByTestId('memory')).toContainText(/Weights\s*4\.\d MB/);
  await expect(page.getByTestId('context')).toHaveText(/\d+ of 2,048 tokens/);
  // A screen reader hears the answer once it is whole.
  await expect(page.getByTestId('announcer')).toContainText((await answer().textContent())!);
});

test('the chat is accessible, in light and dark', async () => {
  expect(await violationsInBothThemes()).toEqual([]);
});

test('an answer can be stopped; its text so far stays', async () => {
  await page.getByTestId('setting-maxTokens').fill('500');
  await page.getByTestId('prompt').fill('Tell me a long story.');
  await page.getByTestId('send').click();
  await expect(answer()).toHaveText(/\w+ \w+/);
  await page.getByTestId('stop').click();
  await answered(page);
  await expect(answer()).toHaveText(/\w+ \w+/);
  await expect(page.getByText('Stopped.')).toBeVisible();
  await page.getByTestId('setting-maxTokens').fill('8');
});

test('an answer can be written anew, reusing what was computed', async () => {
  await page.getByTestId('regenerate').click();
  await answered(page);
  await expect(page.getByText('Stopped.')).toBeHidden();
  await expect(page.getByTestId('stats').last()).toContainText('8 tokens');
  await expect(page.getByTestId('stats').last()).toContainText(/of them reused/);
  await expect(page.getByTestId('message-assistant')).toHaveCount(2);
});

test('a message can be edited, which drops what followed it', async () => {
  await page.getByTestId('edit').first().click();
  await page.getByTestId('edit-text').fill('Tell me about the moon.');
  await page.getByTestId('edit-save').click();
  await answered(page);
  await expect(page.getByTestId('message-user')).toHaveText(['Tell me about the moon.']);
  await expect(page.getByTestId('message-assistant')).toHaveCount(1);
});

test('in a window of 360 pixels nothing scrolls sideways, and both panels open', async () => {
  await page.setViewportSize({ width: 360, height: 740 });
  expect(await overflow()).toBe(0);
  await page.getByTestId('prompt').fill('an-unbreakable-word-'.repeat(20));
  expect(await overflow()).toBe(0);
  await page.getByTestId('prompt').fill('');
  for (const [opener, content] of [
    ['open-conversations', 'conversation-list'],
    ['open-settings', 'settings'],
  ] as const) {
    await page.getByTestId(opener).click();
    await expect(page.getByTestId(content)).toBeVisible();
    expect(await overflow()).toBe(0);
    expect(await violations()).toEqual([]);
    await page.keyboard.press('Escape');
    await expect(page.getByTestId(content)).toBeHidden();
  }
  await page.setViewportSize({ width: 1280, height: 720 });
});

test('colours follow the system until the user chooses', async () => {
  const isDark = () =>
    page.evaluate(() => {
      const [r = 0, g = 0, b = 0] = (getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g) ?? []).map(Number);
      return r + g + b < 3 * 128;
    });
  await page.emulateMedia({ colorScheme: 'dark' });
  expect(await isDark()).toBe(true);
  await page.emulateMedia({ colorScheme: 'light' });
  expect(await isDark()).toBe(false);
  await page.getByRole('button', { name: /^Colours: as the system/ }).click();
  await page.getByRole('button', { name: /^Colours: light/ }).click();
  expect(await isDark()).toBe(true);
});

test('after a reload settings, colours and conversation are kept, and the keyboard alone does everything', async () => {
  await page.getByTestId('setting-system').fill('You are a friendly owl.');
  await page.getByTestId('setting-temperature').fill('0');
  const text = await answer().textContent();
  await page.reload();

  // The package of the last visit has the focus.
  await expect(page.getByTestId('open-last')).toBeFocused();
  await page.keyboard.press('Enter');
  await ready(page);
  await expect(page.getByTestId('prompt')).toBeFocused();
  await expect(page.getByTestId('setting-system')).toHaveValue('You are a friendly owl.');
  await expect(page.getByTestId('setting-maxTokens')).toHaveValue('8');
  await expect(page.locator('html')).toHaveAttribute('data-theme', 'dark');

  const kept = page.getByTestId('conversation-list').getByRole('button', { name: 'Tell me about the moon.', exact: true });
  await tabTo(kept);
  await page.keyboard.press('Enter');
  await expect(answer()).toHaveText(text!);
  await expect(page.getByTestId('prompt')).toBeFocused();

  await page.keyboard.type('And the');
  await page.keyboard.press('Shift+Enter');
  await page.keyboard.type('sun?');
  await page.keyboard.press('Enter');
  await expect(question()).toHaveText('And the\nsun?', { useInnerText: true });
  await answered(page);
  await tabTo(page.getByTestId('edit').last());
  await page.keyboard.press('Enter');
  await expect(page.getByTestId('edit-text')).toBeFocused();
  await page.keyboard.press('Escape');
  await expect(page.getByTestId('edit').last()).toBeFocused();
  await tabTo(page.getByTestId('regenerate'));
  await page.keyboard.press('Enter');
  await expect(page.getByTestId('stop')).toBeVisible();
  await page.keyboard.press('Escape');
  await answered(page);
  await expect(page.getByText('Stopped')).toBeVisible();
});

/** Presses Tab until the element has the focus. */
async function tabTo(element: ReturnType<Page['getByTestId']>): Promise<void> {
  for (let presses = 0; presses < 60; presses++) {
    if (await element.evaluate((element) => element === document.activeElement)) return;
    await page.keyboard.press('Tab');
  }
  throw new Error('no number of presses of Tab leads there');
}

test('a conversation that is deleted can be brought back', async () => {
  const list = page.getByTestId('conversation-list').getByRole('listitem');
  const [count, text] = [await list.count(), await answer().textContent()];
  await page.getByTestId('delete-conversation').first().click();
  await expect(list).toHaveCount(count - 1);
  await expect(page.getByTestId('undo-delete')).toBeFocused();
  expect(await violations()).toEqual([]);
  await page.keyboard.press('Enter');
  await expect(list).toHaveCount(count);
  await expect(answer()).toHaveText(text!);
});

test('conversations can be read before there is a model, and gone on with', async () => {
  await page.getByTestId('change-package').click();
  await page.getByTestId('kept-conversations').getByRole('button').first().click();
  await expect(page.getByTestId('reader')).toContainText('Tell me about the moon.');
  expect(await violations()).toEqual([]);
  await page.getByTestId('go-on').click();
  await expect(page.getByTestId('reader')).toBeHidden();
  await choose(page, whole);
  await expect(page.getByTestId('message-user').first()).toHaveText('Tell me about the moon.');
});

test('a package that is dropped, or not there, is told apart', async () => {
  await page.getByTestId('change-package').click();
  await page.getByTestId('package-url').fill('packages/absent/');
  await page.getByTestId('package-url').press('Enter');
  await expect(page.getByTestId('error')).toHaveAttribute('data-code', 'network');
  await expect(page.getByTestId('error')).toContainText('404');
  await expect(page.getByTestId('package-url')).toHaveValue('packages/absent/');
  expect(await violations()).toEqual([]);
  await page.getByTestId('package-url').fill('ftp://example.org/');
  await page.getByTestId('package-url').press('Enter');
  await expect(page.getByRole('alert').filter({ hasText: 'ftp://example.org/' })).toBeVisible();
  await page.getByTestId('package-files').setInputFiles(whole.folder);
  await ready(page);
  expect(await say(page, PROMPT)).not.toBe('');
});

test('a stored package can be removed', async () => {
  await page.getByTestId('change-package').click();
  await expect(page.getByTestId('stored-list').getByRole('listitem')).toHaveCount(1);
  await page.getByTestId('remove-stored').click();
  await expect(page.getByTestId('stored-list')).toBeHidden();
});
