import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'vite';
import { afterEach, expect, it, onTestFinished, vi } from 'vitest';

afterEach(() => vi.unstubAllEnvs());

async function configFor(connect: string) {
  vi.stubEnv('HAIKUQ_CONNECT', connect);
  vi.resetModules();
  return (await import('./vite.ts')).pageConfig('');
}

it('tells the page’s policy and its check of the same origins', async () => {
  const root = await mkdtemp(join(tmpdir(), 'haikuq-page-'));
  onTestFinished(() => rm(root, { recursive: true }));
  await writeFile(join(root, 'index.html'), '<!doctype html><head></head><script type="module" src="./main.js"></script>');
  await writeFile(join(root, 'main.js'), 'document.title = import.meta.env.HAIKUQ_CONNECT;');
  const config = await configFor(' https://Packages.example/\n http://localhost:8080');
  const built = await build({ ...config, configFile: false, root, logLevel: 'silent', build: { ...config.build, write: false } });
  const files = 'output' in built ? built.output : [];
  const html = files.find((file) => file.fileName === 'index.html');
  const script = files.find((file) => file.type === 'chunk');
  expect(html).toMatchObject({ source: expect.stringContaining(' https://packages.example http://localhost:8080; worker-src') });
  expect(script).toMatchObject({
    code: expect.stringMatching(/document\.title=[`"']https:\/\/packages\.example http:\/\/localhost:8080[`"']/),
  });
});

it.each(['packages.example', 'https://packages.example/p/', 'https://*.example', 'https:', 'ws://packages.example'])(
  'does not build for %s, which is no origin',
  async (entry) => {
    await expect(configFor(entry)).rejects.toThrow(`HAIKUQ_CONNECT: “${entry}” is no origin`);
  },
);
