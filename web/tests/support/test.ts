/** What the tests have in common: servers, and the page that holds the npm package. */

import { test as base, expect, type Browser, type BrowserContext, type Page } from '@playwright/test';
import type * as haikuq from 'haikuq';
import type { Heard, Loaded } from '../page/lab.ts';
import { faultyServer, type FaultyServer } from './faulty-server.ts';
import { serve, type Server } from './haikuq.ts';
import { hostile, sharded, type TestPackage, whole } from './packages.ts';

interface Fixtures {
  /** The tests' page of `server`, with an empty profile. */
  lab: Page;
  /** `haikuq serve` behind a server that counts and misbehaves; faithful when the test begins. */
  faulty: FaultyServer;
  /** The tests' page of `faulty`, with an empty profile. */
  faultyLab: Page;
}

interface WorkerFixtures {
  /** `haikuq serve` as it is. */
  server: Server;
  startedFaulty: FaultyServer;
}

export const test = base.extend<Fixtures, WorkerFixtures>({
  server: [
    // biome-ignore lint/correctness/noEmptyPattern: Playwright reads from the pattern which fixtures are wanted
    async ({}, use) => {
      const server = await serve([whole.folder, sharded.folder, hostile.folder]);
      await use(server);
      await server.stop();
    },
    { scope: 'worker' },
  ],
  startedFaulty: [
    async ({ server }, use) => {
      const faulty = await faultyServer(server);
      await use(faulty);
      await faulty.stop();
    },
    { scope: 'worker' },
  ],
  faulty: async ({ startedFaulty }, use) => {
    startedFaulty.reset();
    await use(startedFaulty);
    startedFaulty.reset();
    await startedFaulty.comeUp();
  },
  lab: async ({ browser, server }, use) => {
    const page = await openLab(await browser.newContext(), server);
    await use(page);
    await page.context().close();
  },
  faultyLab: async ({ browser, faulty }, use) => {
    const page = await openLab(await browser.newContext(), faulty);
    faulty.reset();
    await use(page);
    await page.context().close();
  },
});

export { expect };

/** Opens the page that holds the npm package, in a profile. */
export async function openLab(context: BrowserContext, { url }: Server): Promise<Page> {
  const page = await context.newPage();
  await page.goto(`${url}tests/`);
  await page.waitForFunction(() => 'lab' in window);
  return page;
}

/** A page with a model, for the tests of a file to share; they run one after the other. */
export async function openModel(browser: Browser, server: Server, options: haikuq.LoadOptions = {}): Promise<Page> {
  const page = await openLab(await browser.newContext(), server);
  expect((await load(page, whole, options)).error).toBeUndefined();
  return page;
}

/** Loads a package of the page's server into `window.model`. */
export function load(page: Page, { name }: TestPackage, options: Omit<haikuq.LoadOptions, 'fetch'> = {}): Promise<Loaded> {
  return page.evaluate(([url, options]) => window.lab.load(url, options), [`/packages/${name}/`, options] as const);
}

/** Downloads and stores a package, and checks what is stored. */
export async function download(page: Page, { name }: TestPackage): Promise<Loaded> {
  const loaded = await page.evaluate((url) => window.lab.download(url), `/packages/${name}/`);
  // An aborted load does not wait for the files to be closed.
  if (!loaded.error) await expect.poll(() => damagedBlobs(page)).toEqual([]);
  return loaded;
}

/** Files in OPFS: name (the SHA-256 that they should have) to bytes. */
export const storedBlobs = (page: Page): Promise<Record<string, number>> => page.evaluate(() => window.lab.storedBlobs());

/** Files in OPFS that are not what their name says. */
export const damagedBlobs = (page: Page): Promise<string[]> => page.evaluate(() => window.lab.damagedBlobs());

/** Chats with `window.model`. */
export function chat(page: Page, messages: haikuq.Message[], options: haikuq.ChatOptions = {}): Promise<Heard> {
  return page.evaluate(([messages, options]) => window.lab.chat(messages, options), [messages, options] as const);
}

export const user = (content: string): haikuq.Message => ({ role: 'user', content });
export const assistant = (content: string): haikuq.Message => ({ role: 'assistant', content });
export const system = (content: string): haikuq.Message => ({ role: 'system', content });

/** A text that the model can write for long. */
export const PROMPT = 'Tell me a story about a little cat.';
