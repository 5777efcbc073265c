// @vitest-environment happy-dom
import { act, createElement, StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { afterEach, beforeEach, expect, it, onTestFinished, vi } from 'vitest';
import { HaikuqError, type Model } from 'haikuq';
import { createFakeModel } from '../../shared/dev/fake-model.ts';
import { App } from './app.tsx';

vi.mock('./pwa.ts', () => ({ useAppUpdate: () => null }));
const kept = vi.hoisted(() => new Map<string, unknown>());
vi.mock('./data/database.ts', () => ({
  conversationStore: () => ({
    list: async () => [...kept.values()],
    get: async (id: string) => kept.get(id),
    onChange: () => () => undefined,
  }),
}));

const load = vi.fn((_location: unknown, _options: unknown): Promise<Model> => new Promise<never>(() => undefined));
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
  load.mockReset();
  load.mockImplementation(() => new Promise<never>(() => undefined));
  kept.clear();
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

/** Types an address and has it loaded. */
async function loadAddress(page: HTMLElement, address: string): Promise<void> {
  const field = part(page, 'package-url') as HTMLInputElement;
  // React listens to the setter of the element itself.
  Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value')!.set!.call(field, address);
  await act(async () => field.dispatchEvent(new Event('input', { bubbles: true })));
  await act(async () => field.form!.requestSubmit());
}
const withAdapter = (adapter: object | null) =>
  vi.stubGlobal('navigator', Object.assign(Object.create(navigator) as object, { gpu: { requestAdapter: async () => adapter } }));

it.each([
  ['no WebGPU', () => undefined, 'navigator.gpu'],
  ['no adapter', () => withAdapter(null), 'no graphics adapter'],
])('says before anything is chosen that there is %s', async (_, given, words) => {
  given();
  const page = await visit('https://example.org/app/');
  expect(part(page, 'error')?.dataset['code']).toBe('webgpu-unavailable');
  expect(part(page, 'error')?.textContent).toContain(words);
});

it('says nothing where there is an adapter', async () => {
  withAdapter({});
  expect(part(await visit('https://example.org/app/'), 'error')).toBeNull();
});

it('says where a site’s packages would come from, if it has none', async () => {
  expect(part(await visit('https://example.org/app/'), 'no-packages')?.textContent).toContain('packages/index.json');
  vi.stubGlobal('fetch', async () => Response.json({ packages: [{ url: 'packages/one/' }] }));
  expect(part(await visit('https://example.org/app/'), 'no-packages')).toBeNull();
});

it('leaves the address that was typed where it is when the load fails', async () => {
  load.mockRejectedValue(new HaikuqError('network', 'status 404'));
  const page = await visit('https://example.org/app/');
  await loadAddress(page, 'packages/absnt/');
  expect(part(page, 'error')?.dataset['code']).toBe('network');
  expect((part(page, 'package-url') as HTMLInputElement).value).toBe('packages/absnt/');
  expect(part(page, 'without-storing')).toBeNull();
});

it('offers to go on without storing where the browser grants too little room', async () => {
  load.mockRejectedValueOnce(new HaikuqError('quota', 'too large', { needed: 2e9, available: 1e9 }));
  const page = await visit('https://example.org/app/');
  await loadAddress(page, 'packages/large/');
  await act(async () => part(page, 'without-storing')!.click());
  expect(load.mock.calls.map(([location, options]) => [location, (options as { cache?: string }).cache])).toEqual([
    ['https://example.org/app/packages/large/', undefined],
    ['https://example.org/app/packages/large/', 'none'],
  ]);
});

it('shows conversations without a model, also while one loads, and goes on with the one that was chosen', async () => {
  const turns = [
    { role: 'user', id: 'u', text: 'When?' },
    { role: 'assistant', id: 'a', text: 'At noon.', model: 'm' },
  ];
  kept.set('c', { id: 'c', title: 'When?', updatedAt: 1, turns });
  let loaded: (model: Model) => void = () => undefined;
  load.mockImplementation(() => new Promise((resolve) => (loaded = resolve)));
  const page = await visit('https://example.org/app/');
  const read = () => act(async () => part(page, 'kept-conversations')!.querySelector('button')!.click());
  await read();
  expect(part(page, 'reader')?.textContent).toContain('At noon.');
  await act(async () => part(page, 'reader')!.querySelector<HTMLElement>('[aria-label^="Close"]')!.click());
  expect(part(page, 'reader')).toBeNull();
  await loadAddress(page, 'packages/one/');
  expect(part(page, 'load-progress')).not.toBeNull();
  await read();
  await act(async () => part(page, 'go-on')!.click());
  await act(async () => loaded(createFakeModel()));
  expect(part(page, 'message-assistant')?.textContent).toBe('At noon.');
});
