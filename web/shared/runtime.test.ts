import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { openRuntime } from './runtime.ts';

const load = vi.hoisted(() => vi.fn());
vi.mock('haikuq', async (original) => ({ ...(await original<typeof import('haikuq')>()), load }));

beforeEach(() => {
  vi.stubGlobal('document', { baseURI: 'https://example.org/app/' });
  vi.stubGlobal('location', new URL('https://example.org/app/'));
});
afterEach(() => {
  vi.unstubAllGlobals();
  vi.unstubAllEnvs();
  load.mockReset();
});

it('loads nothing from an origin that the page was not built for', async () => {
  const runtime = await openRuntime();
  await expect(runtime.load('https://evil.example/p/')).rejects.toMatchObject({ code: 'invalid-argument' });
  expect(load).not.toHaveBeenCalled();
});

it('hands all else to the package', async () => {
  vi.stubEnv('HAIKUQ_CONNECT', 'https://packages.example');
  const runtime = await openRuntime();
  const options = { contextSize: 512 };
  await runtime.load('packages/one/', options);
  await runtime.load('https://packages.example/p/');
  expect(load.mock.calls).toEqual([
    ['packages/one/', options],
    ['https://packages.example/p/', undefined],
  ]);
});
