/** Lost devices: replaced unasked, with the text going on where it was. */

import { chromium, type Page } from '@playwright/test';
import { faultyServer } from './support/faulty-server.ts';
import { nativeAnswer } from './support/haikuq.ts';
import { whole } from './support/packages.ts';
import { chat, expect, load, openLab, PROMPT, test, user } from './support/test.ts';

const greedy = { temperature: 0, maxTokens: 12 };

/** A greedy answer during which the device is lost after each of these numbers of pieces. */
function answerLosing(page: Page, ...losses: number[]) {
  return page.evaluate(
    async ([prompt, losses, options]) => {
      window.deviceEvents.length = 0;
      const stream = window.model.chat([{ role: 'user', content: prompt }], options);
      return window.lab.hear(stream, (count) => losses.includes(count) && void window.model.loseDevice());
    },
    [PROMPT, losses, greedy] as const,
  );
}

const recovered = [
  { message: expect.any(String), recovered: false },
  { message: expect.any(String), recovered: true },
];

test('a device that is lost midway is replaced from the store, and the text is the undisturbed one', async ({
  faulty,
  faultyLab: page,
}) => {
  expect((await load(page, whole)).error).toBeUndefined();
  const undisturbed = await nativeAnswer(whole, PROMPT, greedy.maxTokens);
  faulty.requests.length = 0;

  const { pieces, result, error } = await answerLosing(page, 4);
  expect(error).toBeUndefined();
  expect(result).toMatchObject({ text: undisturbed, recoveries: 1, finish: 'length', usage: { completionTokens: greedy.maxTokens } });
  expect(pieces.join('')).toBe(undisturbed);
  expect(await page.evaluate(() => window.deviceEvents)).toEqual(recovered);
  expect(faulty.packageFiles()).toEqual([]);

  await test.step('a second loss in one text is thrown, and the next text is written all the same', async () => {
    const { pieces, error } = await answerLosing(page, 2, 5);
    expect(error).toMatchObject({ code: 'device-lost' });
    expect(undisturbed.startsWith(pieces.join(''))).toBe(true);
    const { result } = await chat(page, [user(PROMPT)], greedy);
    expect(result).toMatchObject({ text: undisturbed, recoveries: 0 });
  });

  await test.step('a device that is lost between two texts is replaced by the next one', async () => {
    await page.evaluate(() => {
      window.deviceEvents.length = 0;
      return window.model.loseDevice();
    });
    const { result } = await chat(page, [user(PROMPT)], greedy);
    expect(result).toMatchObject({ text: undisturbed });
  });
});

test('a GPU process that crashes is survived like a lost device', async ({ server, launchOptions }) => {
  // A browser of its own: it may do without a GPU after some crashes.
  const browser = await chromium.launch(launchOptions);
  const faulty = await faultyServer(server);
  try {
    const page = await openLab(await browser.newContext(), faulty);
    expect((await load(page, whole)).error).toBeUndefined();
    const undisturbed = await nativeAnswer(whole, PROMPT, greedy.maxTokens);
    faulty.requests.length = 0;
    await page.evaluate(
      ([prompt, options]) => {
        const heard = { pieces: 0 };
        const done = window.lab.hear(window.model.chat([{ role: 'user', content: prompt }], options), (count) => (heard.pieces = count));
        Object.assign(window, { heard, done });
      },
      [PROMPT, greedy] as const,
    );
    await page.waitForFunction(() => (window as unknown as { heard: { pieces: number } }).heard.pieces >= 3);
    const session = await browser.newBrowserCDPSession();
    await session.send('Browser.crashGpuProcess').catch(() => undefined);

    const { result, error } = await page.evaluate(() => (window as unknown as { done: ReturnType<typeof window.lab.hear> }).done);
    expect(error).toBeUndefined();
    expect(result).toMatchObject({ text: undisturbed, recoveries: 1 });
    expect(await page.evaluate(() => window.deviceEvents)).toEqual(recovered);
    expect(faulty.packageFiles()).toEqual([]);
  } finally {
    await faulty.stop();
    await browser.close();
  }
});
