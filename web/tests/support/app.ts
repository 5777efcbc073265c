/** The chat app as its user sees it. */

import { expect, type Page } from '@playwright/test';
import type { TestPackage } from './packages.ts';

/** As the settings panel keeps them, for short answers that are the same each time. */
export async function keepSettings(page: Page, settings: { temperature?: number; maxTokens?: number }): Promise<void> {
  await page.addInitScript((settings) => {
    localStorage['haikuq.settings'] ??= JSON.stringify({ system: '', ...settings });
  }, settings);
}

/** Chooses a package of the start page and waits until it can be talked to. */
export async function choose(page: Page, { name }: TestPackage): Promise<void> {
  await page
    .getByTestId('package')
    .filter({ has: page.getByText(name, { exact: true }) })
    .click();
  await ready(page);
}

export async function ready(page: Page): Promise<void> {
  await expect(page.getByTestId('prompt')).toBeVisible();
}

/** Sends a message and waits for the end of the answer; its text. */
export async function say(page: Page, text: string): Promise<string> {
  await page.getByTestId('prompt').fill(text);
  await page.getByTestId('send').click();
  return answered(page);
}

/** Waits for the end of the answer that is being written; its text. */
export async function answered(page: Page): Promise<string> {
  await expect(page.getByTestId('send')).toBeVisible();
  await expect(page.getByTestId('regenerate')).toBeVisible();
  return (await page.getByTestId('message-assistant').last().textContent()) ?? '';
}
