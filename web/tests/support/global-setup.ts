/** Makes what the tests need from what was built, and says what is missing. */

import { cpSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'vite';
import { findHaikuq } from '../../scripts/browser.mjs';
import { haikuq } from './haikuq.ts';
import { cache, checkpoint, makeHostile, sharded, site, updated, whole } from './packages.ts';

const web = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));

export default async function setUp(): Promise<void> {
  findHaikuq();
  for (const built of [
    'site/index.html',
    'site/bench/index.html',
    'site/validate/index.html',
    'dist/engine/generated/haikuq_web_bg.wasm',
    'dist/engine/generated/haikuq_web_grammar_bg.wasm',
  ]) {
    if (!existsSync(web(built))) throw new Error(`web/${built} is missing: build it (make web)`);
  }
  rmSync(cache, { recursive: true, force: true });
  mkdirSync(join(cache, 'packages'), { recursive: true });

  cpSync(web('site'), site, { recursive: true });
  await build({ configFile: web('tests/page/vite.config.ts'), build: { outDir: join(site, 'tests') } });

  writeFileSync(join(cache, 'updated.toml'), UPDATED_RECIPE);
  for (const { folder, conversion } of [whole, sharded, updated]) {
    await haikuq('convert', checkpoint, '--out', folder, ...conversion);
  }
  makeHostile();
}

/** As the recipe q4, but for one matrix: of the 22 shards only the last one differs. */
const UPDATED_RECIPE = `
attention = "q4/32"
mlp = "q4/32"
embedding = "q8/64"
head = "q8/64"

[[override]]
pattern = '^layers\\.7\\.down$'
scheme = "q8/64"
`;
