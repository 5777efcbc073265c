/** The packages that the tests load: the repository's embedded model, converted in several ways by the global set-up. */

import { createHash } from 'node:crypto';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { repository } from '../../scripts/browser.mjs';

export const checkpoint = join(repository, 'golden/haiku-7m');

/** Everything that the set-up makes; git ignores it. */
export const cache = fileURLToPath(new URL('../.cache', import.meta.url));

/** web/site and the tests' own page in one folder, as `haikuq serve --site` takes it. */
export const site = join(cache, 'site');

export interface TestPackage {
  name: string;
  folder: string;
  /** Arguments of `haikuq convert`. */
  conversion: string[];
}

function testPackage(name: string, ...conversion: string[]): TestPackage {
  return { name, folder: join(cache, 'packages', name), conversion };
}

/** Weights in one file. */
export const whole = testPackage('haiku-7m-q4', '--recipe', 'q4-fast');

/** The same weights in 22 shards, for everything that happens between shards. */
export const sharded = testPackage('haiku-7m-q4-shards', '--recipe', 'q4-fast', '--shard-size', '256KiB');

/** The next version of `sharded`: one matrix is stored in another way, all else stays. */
export const updated = testPackage('haiku-7m-q4-updated', '--recipe', join(cache, 'updated.toml'), '--shard-size', '256KiB');

/** `whole`, but that one of its tokens reads as markup: a model that writes what a hostile one would. */
export const hostile = testPackage('hostile');

/**
 * Calibrated packages, by the default recipe and by q3. They take long to make: `scripts/test.sh` names the folder in which
 * the Rust tests have made them (`HAIKUQ_TEST_PACKAGES`); elsewhere the test that needs them makes them.
 */
export const calibrated = ['q4', 'q3'].map((recipe) => {
  const made = process.env['HAIKUQ_TEST_PACKAGES'];
  const name = `haiku-7m-${recipe}`;
  const folder = made ? join(made, name) : join(cache, 'calibrated', name);
  const conversion = ['--recipe', recipe, '--calibration', join(checkpoint, 'calibration.jsonl')];
  return { name, folder, conversion, recipe, made: made !== undefined };
});

/** Runs where it is taken for HTML. */
export const MARKUP = '<img src=x onerror="window.injected=1">';

/** Makes `hostile`: the token ` day`, with which its answers to many prompts begin, is renamed. */
export function makeHostile(): void {
  const renamed = '\u0120day';
  cpSync(whole.folder, hostile.folder, { recursive: true });
  const path = join(hostile.folder, 'tokenizer.json');
  const tokenizer = JSON.parse(readFileSync(path, 'utf8')) as { model: { vocab: Record<string, number>; merges: [string, string][] } };
  const { vocab, merges } = tokenizer.model;
  // Byte-level tokens write a space as U+0120.
  vocab[MARKUP.replaceAll(' ', '\u0120')] = vocab[renamed]!;
  delete vocab[renamed];
  tokenizer.model.merges = merges.filter((parts) => !parts.includes(renamed) && parts.join('') !== renamed);
  const text = JSON.stringify(tokenizer);
  writeFileSync(path, text);
  const manifestPath = join(hostile.folder, 'haikuq.json');
  const manifest = JSON.parse(readFileSync(manifestPath, 'utf8')) as { files: ManifestFile[] };
  const file = manifest.files.find(({ name }) => name === 'tokenizer.json')!;
  Object.assign(file, { bytes: Buffer.byteLength(text), sha256: createHash('sha256').update(text).digest('hex') });
  writeFileSync(manifestPath, JSON.stringify(manifest));
}

export interface ManifestFile {
  name: string;
  bytes: number;
  sha256: string;
}

export function manifestOf({ folder }: TestPackage): { shards: ManifestFile[]; files: ManifestFile[] } {
  return JSON.parse(readFileSync(join(folder, 'haikuq.json'), 'utf8'));
}

/** Shards and files: all that is downloaded beside the manifest. */
export function filesOf(testPackage: TestPackage): ManifestFile[] {
  const { shards, files } = manifestOf(testPackage);
  return [...files, ...shards];
}

export function totalBytes(files: ManifestFile[]): number {
  return files.reduce((sum, { bytes }) => sum + bytes, 0);
}
