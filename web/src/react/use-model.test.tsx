// @vitest-environment happy-dom
import { act } from 'react';
import { expect, test, vi } from 'vitest';
import { HaikuqError } from '../errors.js';
import type { LoadOptions, LoadProgress, Model, PackageLocation } from '../types.js';
import { renderHook } from './testing/render-hook.js';
import { type UseModel, useModelOf } from './use-model.js';

const HALF: LoadProgress = { phase: 'download', bytes: 5, totalBytes: 10, downloadedBytes: 5, downloadTotalBytes: 10, bytesPerSecond: 1 };

interface Loading {
  location: PackageLocation;
  options: LoadOptions;
  arrive: (model: Model) => void;
  fail: (error: Error) => void;
}

/** A loader whose loads end when the test says so; like the real one it rejects when it is aborted. */
function loader() {
  const loads: Loading[] = [];
  const load = (location: PackageLocation, options: LoadOptions) =>
    new Promise<Model>((arrive, fail) => {
      loads.push({ location, options, arrive, fail });
      options.signal?.addEventListener('abort', () => fail(new HaikuqError('aborted', 'aborted')));
    });
  return { loads, load };
}

function fakeModel() {
  const dispose = vi.fn(async () => {});
  return { model: { dispose } as unknown as Model, dispose };
}

interface Props {
  location: PackageLocation | null | undefined;
  options?: LoadOptions;
}

function render(load: ReturnType<typeof loader>['load'], props: Props, strict = false) {
  return renderHook<UseModel, Props>(({ location, options }) => useModelOf(load, location, options), props, { strict });
}

test.each([false, true])('loads once, reports progress, disposes on unmount; strict mode %s', async (strict) => {
  const { loads, load } = loader();
  const { model, dispose } = fakeModel();
  const onProgress = vi.fn();
  const hook = await render(load, { location: '/packages/x/', options: { onProgress, contextSize: 512 } }, strict);
  expect(hook.current).toMatchObject({ status: 'loading', model: undefined, error: undefined });
  expect(loads).toHaveLength(1);
  expect(loads[0]).toMatchObject({ location: '/packages/x/', options: { contextSize: 512 } });

  await act(async () => loads[0]!.options.onProgress?.(HALF));
  expect(hook.current.progress).toEqual(HALF);
  expect(onProgress).toHaveBeenCalledExactlyOnceWith(HALF);

  await act(async () => loads[0]!.arrive(model));
  expect(hook.current).toMatchObject({ status: 'ready', model, progress: HALF });
  expect(dispose).not.toHaveBeenCalled();
  await hook.unmount();
  expect(dispose).toHaveBeenCalledOnce();
});

test('unmounting while it loads aborts the load', async () => {
  const { loads, load } = loader();
  const hook = await render(load, { location: '/x/' });
  await hook.unmount();
  expect(loads[0]?.options.signal?.aborted).toBe(true);
});

test('a model that comes after the unmount all the same is disposed', async () => {
  const { model, dispose } = fakeModel();
  let arrive!: (model: Model) => void;
  const hook = await render(() => new Promise((resolve) => (arrive = resolve)), { location: '/x/' });
  await hook.unmount();
  await act(async () => arrive(model));
  expect(dispose).toHaveBeenCalledOnce();
});

test('an error is state, and reload tries again', async () => {
  const { loads, load } = loader();
  const { model } = fakeModel();
  const hook = await render(load, { location: '/x/' });
  const error = new HaikuqError('network', 'gone');
  await act(async () => loads[0]!.fail(error));
  expect(hook.current).toMatchObject({ status: 'error', error, model: undefined });
  await act(async () => hook.current.reload());
  expect(hook.current).toMatchObject({ status: 'loading', error: undefined });
  await act(async () => loads[1]!.arrive(model));
  expect(hook.current).toMatchObject({ status: 'ready', model });
});

test('another location loads another model and disposes the first; the same address does not', async () => {
  const { loads, load } = loader();
  const [first, second] = [fakeModel(), fakeModel()];
  const hook = await render(load, { location: new URL('https://site.example/x/') });
  await act(async () => loads[0]!.arrive(first.model));
  await hook.rerender({ location: new URL('https://site.example/x/'), options: { contextSize: 9 } });
  expect(loads).toHaveLength(1);
  await hook.rerender({ location: new URL('https://site.example/y/') });
  expect(first.dispose).toHaveBeenCalledOnce();
  expect(hook.current).toMatchObject({ status: 'loading', model: undefined });
  await act(async () => loads[1]!.arrive(second.model));
  expect(hook.current.model).toBe(second.model);
});

test('without a location nothing is loaded', async () => {
  const { loads, load } = loader();
  const hook = await render(load, { location: undefined });
  expect(hook.current.status).toBe('idle');
  expect(loads).toEqual([]);
  await hook.rerender({ location: '/x/' });
  expect(loads).toHaveLength(1);
  await hook.rerender({ location: null });
  expect(hook.current.status).toBe('idle');
  expect(loads[0]?.options.signal?.aborted).toBe(true);
});

test("the caller's signal aborts the load, which is an error like any other", async () => {
  const { loads, load } = loader();
  const controller = new AbortController();
  const hook = await render(load, { location: '/x/', options: { signal: controller.signal } });
  await act(async () => controller.abort());
  expect(loads[0]?.options.signal?.aborted).toBe(true);
  expect(hook.current).toMatchObject({ status: 'error', error: { code: 'aborted' } });
});
