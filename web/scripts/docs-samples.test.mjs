// The documentation's samples are checked against the package's types, as a reader's compiler would: each fenced block in
// ts, js, tsx or jsx is a module of its own. TypeScript is checked strictly; JavaScript for names, members and arguments.
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';

const web = fileURLToPath(new URL('..', import.meta.url));
const documents = ['../docs/web.md', '../README.md', 'README.md'];

/** What the text around a sample has introduced, for samples that do not declare it themselves. */
const AROUND = `
declare const output: HTMLElement;
declare const model: import('haikuq').Model;
declare const messages: import('haikuq').Message[];
declare function looksPrivate(text: string): boolean;
`;

/** In a service worker `self` is more than the library for workers says. */
const SERVICE_WORKER = '/** @type {ServiceWorkerGlobalScope} */ const self = /** @type {any} */ (globalThis);';

/**
 * Fenced blocks of code, with what stands behind the fence: ```js service-worker.
 * @param {string} markdown
 */
function samplesOf(markdown) {
  const fence = /^```(ts|js|tsx|jsx)(?: ([\w-]+))?\n(.*?)^```$/gms;
  return [...markdown.matchAll(fence)].map(({ 1: language, 2: place = 'page', 3: code, index }) => ({
    language,
    place,
    code,
    line: markdown.slice(0, index).split('\n').length + 1,
  }));
}

/**
 * What tsc prints, empty where all is well.
 * @param {string[]} options
 * @returns {Promise<string>}
 */
function tsc(...options) {
  const program = join(web, 'node_modules/typescript/bin/tsc');
  return new Promise((resolve) => {
    execFile(process.execPath, [program, '--pretty', 'false', ...options], (error, stdout, stderr) => {
      resolve(error ? stdout + stderr || String(error) : '');
    });
  });
}

/** The package's types as its users get them. */
const types = mkdtempSync(join(tmpdir(), 'haikuq-types-'));
beforeAll(async () => {
  expect(await tsc('-p', join(web, 'tsconfig.build.json'), '--emitDeclarationOnly', '--declarationMap', 'false', '--outDir', types)).toBe(
    '',
  );
}, 120_000);
afterAll(() => rmSync(types, { recursive: true }));

/**
 * @param {string} folder
 * @param {{ files: string[], lib: string[], strict: boolean }} project
 */
async function compile(folder, { files, lib, strict }) {
  const compilerOptions = {
    noEmit: true,
    target: 'ES2022',
    module: 'ES2022',
    moduleResolution: 'bundler',
    lib,
    types: [],
    paths: {
      haikuq: [join(types, 'index.d.ts')],
      'haikuq/hybrid': [join(types, 'hybrid/index.d.ts')],
      'haikuq/react': [join(types, 'react.d.ts')],
    },
    jsx: 'react-jsx',
    allowJs: true,
    checkJs: true,
    strict,
    skipLibCheck: true,
  };
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files }));
  return tsc('-p', folder);
}

/** @param {{ language: string, place: string }} sample */
const isStrict = ({ language }) => language.startsWith('ts');

/**
 * Messages of tsc name the document and the line in it: every sample is put where it stands there.
 * @param {string} name
 * @param {string} markdown
 */
async function check(name, markdown) {
  const folder = mkdtempSync(join(tmpdir(), 'haikuq-docs-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  symlinkSync(join(web, 'node_modules'), join(folder, 'node_modules'));
  writeFileSync(join(folder, 'around.d.ts'), AROUND);
  const samples = samplesOf(markdown).map((sample) => {
    const file = `${name}.line-${sample.line}.${sample.language}`;
    const before = (sample.place === 'service-worker' ? SERVICE_WORKER : '') + '\n'.repeat(sample.line - 1);
    // Whether it imports or not, a sample is a module: its names are its own, and it may await.
    writeFileSync(join(folder, file), `${before}${sample.code}export {};\n`);
    return { ...sample, file };
  });
  const page = ['ES2023', 'DOM', 'DOM.Iterable', 'DOM.AsyncIterable'];
  const projects = [
    { of: samples.filter((s) => s.place === 'page' && isStrict(s)), lib: page, strict: true },
    { of: samples.filter((s) => s.place === 'page' && !isStrict(s)), lib: page, strict: false },
    { of: samples.filter((s) => s.place === 'service-worker'), lib: ['ES2023', 'WebWorker'], strict: false },
  ];
  const around = { page: ['around.d.ts'], 'service-worker': [] };
  let said = '';
  for (const { of, lib, strict } of projects) {
    if (of.length === 0) continue;
    const files = [...around[of[0].place], ...of.map(({ file }) => file)];
    said += await compile(folder, { files, lib, strict });
  }
  return { count: samples.length, checked: projects.reduce((sum, { of }) => sum + of.length, 0), said };
}

test.for(documents)('the samples of %s compile', { timeout: 120_000 }, async (path) => {
  const { count, checked, said } = await check(basename(path), readFileSync(join(web, path), 'utf8'));
  expect(said).toBe('');
  expect(count).toBeGreaterThan(0);
  expect(checked).toBe(count);
});

test('a sample that uses what there is not is found, with its line', { timeout: 120_000 }, async () => {
  const markdown = [
    '# Title',
    '```ts',
    "import { load } from 'haikuq';",
    "const { info } = await load('/p/', { cash: 'none' });",
    '```',
    '```js',
    "import { hybrid } from 'haikuq/hybrid';",
    'hybrid({ local: model }).talk();',
    '```',
    '```js service-worker',
    'self.clients.claimAll();',
    '```',
    '',
  ].join('\n');
  const { said } = await check('wrong.md', markdown);
  expect(said).toMatch(/wrong\.md\.line-3\.ts\(4,\d+\): .*'cash'/);
  expect(said).toMatch(/wrong\.md\.line-7\.js\(8,\d+\): .*'talk'/);
  expect(said).toMatch(/wrong\.md\.line-11\.js\(11,\d+\): .*'claimAll'/);
});
