// @vitest-environment happy-dom
import { act, createElement, StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { afterEach, beforeEach, expect, it, onTestFinished, vi } from 'vitest';
import { App } from './app.tsx';

vi.mock('./pwa.ts', () => ({ useAppUpdate: () => null }));

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

async function visit(address: string): Promise<HTMLElement> {
  location.href = address;
  const page = document.createElement('div');
  const root = createRoot(page);
  await act(async () => root.render(createElement(StrictMode, null, createElement(App, { runtime }))));
  onTestFinished(() => act(async () => root.unmount()));
  return page;
}
const part = (page: HTMLElement, id: string) => page.querySelector<HTMLElement>(`[data-testid="${id}"]`);

it('loads the package of this site that a link names', async () => {
  await visit('https://example.org/app/?package=packages/one/');
  expect(load).toHaveBeenCalledExactlyOnceWith('https://example.org/app/packages/one/', expect.anything());
});

it('computes as the server says', async () => {
  const index = { packages: [], load: { numerics: 'exact' } };
  vi.stubGlobal('fetch', async () => Response.json(index));
  await visit('https://example.org/app/?package=packages/one/');
  expect(load).toHaveBeenCalledExactlyOnceWith(expect.anything(), expect.objectContaining({ numerics: 'exact' }));
});

it('says how to allow the origin of a package that a link names, and asks it for nothing', async () => {
  const page = await visit('https://example.org/app/?package=https://evil.example/p/');
  expect(load).not.toHaveBeenCalled();
  expect(part(page, 'error')?.textContent).toContain('HAIKUQ_CONNECT=https://evil.example');
});

it('leaves it to the user to load a link’s package from another origin', async () => {
  vi.stubEnv('HAIKUQ_CONNECT', 'https://packages.example');
  const page = await visit('https://example.org/app/?package=https://packages.example/p/');
  expect(load).not.toHaveBeenCalled();
  expect(part(page, 'linked-package')?.textContent).toContain('https://packages.example');
  const address = part(page, 'package-url') as HTMLInputElement;
  expect(address.value).toBe('https://packages.example/p/');
  await act(async () => address.form!.requestSubmit());
  expect(load).toHaveBeenCalledExactlyOnceWith('https://packages.example/p/', expect.anything());
});
