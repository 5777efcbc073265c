// What a server that renders pages does: it imports everything public, where there is no DOM. Needs `npm run build`.
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

const web = new URL('../', import.meta.url);
/** @type {Record<string, string | { default: string }>} */
const entries = JSON.parse(readFileSync(new URL('package.json', web), 'utf8')).exports;
const files = Object.values(entries).map((entry) => (typeof entry === 'string' ? entry : entry.default));
const built = existsSync(new URL('dist/engine/generated/haikuq_web.js', web));

test.runIf(built).for(files)('%s is imported in Node.js', async (file) => {
  const program = `import(${JSON.stringify(new URL(file, web).href)}).then((all) => console.log(JSON.stringify(Object.keys(all))))`;
  const { stdout, stderr } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program], {
    cwd: fileURLToPath(web),
  });
  expect(stderr).toBe('');
  expect(JSON.parse(stdout)).toBeInstanceOf(Array);
});
