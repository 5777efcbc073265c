// `npm run validate -- PACKAGE --golden FILE [OPTIONS]`: what `haikuq validate` does, with Chromium in place of the native
// runtime. All options are those of `haikuq validate`; so are the report and the exit code.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { chromium } from '@playwright/test';
import { chromiumFlags, findChromium, findHaikuq, webgpuFlag } from './browser.mjs';

const FAILED = 1;

const folder = mkdtempSync(join(tmpdir(), 'haikuq-validate-'));
try {
  process.exitCode = await validate(process.argv.slice(2), join(folder, 'url'));
} catch (error) {
  console.error(`validate: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = FAILED;
} finally {
  rmSync(folder, { recursive: true, force: true });
}

/**
 * The exit code of the program, which does all but running the package.
 * @param {string[]} options
 * @param {string} urlFile
 */
async function validate(options, urlFile) {
  const executablePath = findChromium();
  const program = spawn(findHaikuq(), ['validate', ...options, '--browser', '--no-open', '--url-file', urlFile], {
    // npm changes to the package's folder; paths are meant from where it was called.
    cwd: resolve(process.env.INIT_CWD ?? '.'),
    stdio: 'inherit',
  });
  for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM'])) process.on(signal, () => program.kill(signal));
  const over = new AbortController();
  /** @type {Promise<number>} */
  const exited = new Promise((settle, reject) => {
    program.on('error', reject);
    program.on('exit', (code) => {
      over.abort();
      settle(code ?? FAILED);
    });
  });
  const url = await Promise.race([readUrl(urlFile, over.signal), exited.then(() => undefined)]);
  if (url === undefined) return exited;

  const browser = await chromium.launch({ executablePath, args: [...chromiumFlags, webgpuFlag] });
  try {
    const page = await browser.newPage();
    page.on('pageerror', (error) => console.error(`validate: in the page: ${error.message}`));
    const crashed = new Promise((_, reject) => page.on('crash', () => reject(new Error('the page crashed'))));
    const opened = page.goto(url);
    // The program may be done before the page is; that it then goes away is no error.
    opened.catch(() => undefined);
    return await Promise.race([opened.then(() => exited), exited, crashed]);
  } finally {
    program.kill();
    await browser.close();
  }
}

/**
 * Waits until the program listens: it writes the address with a final newline.
 * @param {string} file
 * @param {AbortSignal} signal
 */
async function readUrl(file, signal) {
  while (!signal.aborted) {
    try {
      const text = readFileSync(file, 'utf8');
      if (text.endsWith('\n')) return text.trim();
    } catch {
      // Not written yet.
    }
    await sleep(50);
  }
  return undefined;
}
