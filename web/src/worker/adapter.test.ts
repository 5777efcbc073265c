import { expect, it } from 'vitest';
import { describeAdapter } from './adapter.js';

const adapter = (info: object) => {
  // Limits are accessors of a prototype, as in browsers.
  const limits = Object.create({
    get maxBufferSize() {
      return 5;
    },
    get maxBindGroups() {
      return 4;
    },
  }) as object;
  return { limits, info: { vendor: 'acme', architecture: 'x1', device: '', description: '', isFallbackAdapter: false, ...info } };
};
const gpu = (found: object | null) => ({ requestAdapter: async () => found }) as unknown as GPU;

it('describes the adapter, and gives it for the device', async () => {
  const found = adapter({});
  const { adapter: given, ...facts } = await describeAdapter({}, gpu(found));
  expect(given).toBe(found);
  expect(facts).toEqual({
    vendor: 'acme',
    architecture: 'x1',
    device: '',
    description: '',
    limits: { maxBufferSize: 5, maxBindGroups: 4 },
    software: false,
  });
});

it.each([{ isFallbackAdapter: true }, { architecture: 'swiftshader' }, { description: 'llvmpipe (LLVM 19)' }])(
  'knows software by %j',
  async (info) => {
    expect((await describeAdapter({}, gpu(adapter(info)))).software).toBe(true);
  },
);

it('says why there is no WebGPU', async () => {
  await expect(describeAdapter({}, undefined)).rejects.toMatchObject({ code: 'webgpu-unavailable' });
  await expect(describeAdapter({}, gpu(null))).rejects.toMatchObject({
    code: 'webgpu-unavailable',
    message: expect.stringContaining('no adapter') as string,
  });
  const failing = { requestAdapter: () => Promise.reject(new Error('process died')) } as unknown as GPU;
  await expect(describeAdapter({}, failing)).rejects.toMatchObject({
    code: 'webgpu-unavailable',
    message: expect.stringContaining('died') as string,
  });
});
