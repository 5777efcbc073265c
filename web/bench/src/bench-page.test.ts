// @vitest-environment happy-dom
import { act, createElement } from 'react';
import { createRoot } from 'react-dom/client';
import { afterEach, beforeEach, expect, it, onTestFinished, vi } from 'vitest';

const load = vi.fn(() => new Promise<never>(() => undefined));
const runtime = {
  load,
  listStored: async () => [],
  removeStored: async () => undefined,
  storageUse: async () => ({ packageBytes: 0, persisted: false }),
};

beforeEach(() => {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  vi.stubGlobal('fetch', async () => new Response('', { status: 404 }));
});
afterEach(() => {
  vi.unstubAllGlobals();
  vi.unstubAllEnvs();
  load.mockClear();
});

async function visit(linked: string, more: Record<string, string> = {}) {
  location.href = 'https://example.org/app/bench/';
  // The module reads the page's address when it is evaluated.
  const { BenchPage } = await import('./bench-page.tsx');
  const page = document.createElement('div');
  const root = createRoot(page);
  const onFailure = vi.fn();
  const query = new URLSearchParams({ auto: '1', package: linked, ...more });
  await act(async () => root.render(createElement(BenchPage, { runtime, query, onReport: () => undefined, onFailure })));
  onTestFinished(() => act(async () => root.unmount()));
  return { page, onFailure };
}

it('begins by itself with a package of this site', async () => {
  await visit('packages/one/');
  expect(load).toHaveBeenCalledExactlyOnceWith('https://example.org/app/packages/one/', expect.anything());
});

it('computes as the server says, or as its own address does', async () => {
  vi.stubGlobal('fetch', async () => Response.json({ packages: [], load: { numerics: 'exact' } }));
  await visit('packages/one/');
  expect(load).toHaveBeenLastCalledWith(expect.anything(), expect.objectContaining({ numerics: 'exact' }));
  await visit('packages/one/', { numerics: 'fast' });
  expect(load).toHaveBeenLastCalledWith(expect.anything(), expect.objectContaining({ numerics: 'fast' }));
});

it('says how to allow another origin, and asks it for nothing', async () => {
  const { page, onFailure } = await visit('https://evil.example/p/');
  expect(load).not.toHaveBeenCalled();
  expect(onFailure).toHaveBeenCalledExactlyOnceWith(expect.objectContaining({ code: 'invalid-argument' }));
  expect(page.querySelector('[data-testid="error"]')?.textContent).toContain('HAIKUQ_CONNECT=https://evil.example');
});

it('does not begin by itself with a package of another origin, though it was built for that', async () => {
  vi.stubEnv('HAIKUQ_CONNECT', 'https://packages.example');
  const { page } = await visit('https://packages.example/p/');
  expect(load).not.toHaveBeenCalled();
  expect(page.querySelector('[data-testid="error"]')?.textContent).toContain('choose Run');
  await act(async () => page.querySelector<HTMLFormElement>('form')!.requestSubmit());
  expect(load).toHaveBeenCalledExactlyOnceWith('https://packages.example/p/', expect.anything());
});
