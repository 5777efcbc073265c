/** The packages that the tests load: the repository's embedded model, converted in several ways by the global set-up. */

import { readFileSync } from 'node:fs';
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
export const whole = testPackage('haiku-7m-q4', '--recipe', 'q4');

/** The same weights in 22 shards, for everything that happens between shards. */
export const sharded = testPackage('haiku-7m-q4-shards', '--recipe', 'q4', '--shard-size', '256KiB');

/** The next version of `sharded`: one matrix is stored in another way, all else stays. */
export const updated = testPackage('haiku-7m-q4-updated', '--recipe', join(cache, 'updated.toml'), '--shard-size', '256KiB');

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
