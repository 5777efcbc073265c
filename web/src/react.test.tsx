// @vitest-environment happy-dom
import { act } from 'react';
import { expect, test, vi } from 'vitest';
import { useModel } from './react.js';
import { renderHook } from './react/testing/render-hook.js';
import type { Model } from './types.js';

const load = vi.hoisted(() => vi.fn());
vi.mock('./index.js', () => ({ load }));

test('useModel loads with the runtime of the package', async () => {
  const model = { dispose: async () => {} } as Model;
  load.mockResolvedValue(model);
  const hook = await renderHook(() => useModel('/packages/x/', { contextSize: 512 }), {});
  await act(() => vi.dynamicImportSettled());
  expect(load).toHaveBeenCalledExactlyOnceWith('/packages/x/', expect.objectContaining({ contextSize: 512 }));
  expect(hook.current).toMatchObject({ status: 'ready', model });
});
