// Takes the README's screenshot from the real thing: `node scripts/screenshot.mjs URL OUT.png`, where URL is that of
// `haikuq serve PACKAGE`.
import { chromium } from '@playwright/test';
import { chromiumFlags, findChromium, webgpuFlag } from './browser.mjs';

const [url, out] = process.argv.slice(2);
if (!url || !out) {
  console.error('usage: node scripts/screenshot.mjs URL OUT.png');
  process.exit(2);
}
const browser = await chromium.launch({ executablePath: findChromium(), args: [...chromiumFlags, webgpuFlag] });
const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, colorScheme: 'light' });
await page.goto(url);
await page.getByTestId('package').first().click();
const prompt = page.getByTestId('prompt');
await prompt.waitFor({ timeout: 120_000 });
for (const [key, value] of Object.entries({ temperature: '0.7', topP: '0.9', seed: '3', maxTokens: '60' })) {
  await page.getByTestId(`setting-${key}`).fill(value);
}
for (const text of ['Tell me a story about a cold birthday.', 'What happened then?']) {
  await prompt.fill(text);
  await prompt.press('Enter');
  const answered = page.getByTestId('stop');
  await answered.waitFor();
  await answered.waitFor({ state: 'hidden', timeout: 300_000 });
}
// Typing into the settings has scrolled the panels.
await page.getByTestId('status-panel').evaluate((panel) => panel.scrollIntoView());
await page.screenshot({ path: out });
await browser.close();
