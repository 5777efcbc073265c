/** The program `haikuq`: its server, and what the native runtime says. */

import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { findHaikuq } from '../../scripts/browser.mjs';
import { site, type TestPackage } from './packages.ts';

const run = promisify(execFile);

/** Chromium's own software GPU, where its library can be used natively: then even the adapter is the same. */
const SWIFTSHADER = '/usr/lib/chromium/vk_swiftshader_icd.json';

export const nativeEnvironment: NodeJS.ProcessEnv = {
  ...process.env,
  XDG_RUNTIME_DIR: process.env['XDG_RUNTIME_DIR'] ?? '/tmp',
  ...(existsSync(SWIFTSHADER) ? { VK_DRIVER_FILES: SWIFTSHADER } : {}),
};

/** Runs a command to its end; what it printed. Rejects with its error messages. */
export async function haikuq(...args: string[]): Promise<string> {
  const { stdout } = await run(findHaikuq(), ['--quiet', ...args], { env: nativeEnvironment, maxBuffer: 64 << 20 });
  return stdout;
}

/** What the native runtime answers: greedy, `maxTokens` at most. */
export async function nativeAnswer({ folder }: TestPackage, prompt: string, maxTokens: number): Promise<string> {
  const json = await haikuq('run', folder, '--chat', '--greedy', '--json', '--max-tokens', String(maxTokens), prompt);
  return (JSON.parse(json) as { texts: { text: string }[] }).texts[0]!.text;
}

export interface Server {
  /** With a slash at the end. */
  url: string;
  stop(): Promise<void>;
}

/** `haikuq serve` for the built site and some packages, at a free port. */
export async function serve(packages: string[], ...options: string[]): Promise<Server> {
  const args = ['serve', '--port', '0', '--no-open', '--json', '--site', site, ...options, ...packages];
  const program = spawn(findHaikuq(), args, { stdio: ['ignore', 'pipe', 'pipe'], env: nativeEnvironment });
  let errors = '';
  program.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
  const exited = once(program, 'exit');
  const listening = once(createInterface(program.stdout), 'line');
  const line = await Promise.race([listening, exited.then(() => undefined)]);
  if (!line) throw new Error(`haikuq serve ended at once: ${errors}`);
  const { url } = JSON.parse(String(line[0])) as { url: string };
  return {
    url,
    async stop() {
      program.kill();
      await exited;
    },
  };
}
