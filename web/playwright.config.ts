/** Tests in a real browser: `npm run test:browser`. tests/README.md says what they need and what each file proves. */

import { defineConfig } from '@playwright/test';
import { chromiumFlags, findChromium, webgpuFlag } from './scripts/browser.mjs';

export default defineConfig({
  testDir: 'tests',
  outputDir: 'test-results',
  globalSetup: './tests/support/global-setup.ts',
  // The GPU may be emulated on the CPU: one model at a time, and generous limits.
  workers: 1,
  timeout: 300_000,
  expect: { timeout: 60_000 },
  forbidOnly: process.env['CI'] !== undefined,
  reporter: [['list']],
  use: {
    launchOptions: { executablePath: findChromium(), args: [...chromiumFlags, webgpuFlag] },
    screenshot: 'only-on-failure',
  },
});
