/** What GPU this is, without loading a model. */

import type { AdapterInfo } from '../types.js';

/** The adapter that WebGPU offers, or undefined where there is none. Downloads nothing and makes no device. */
export async function probeDevice(): Promise<AdapterInfo | undefined> {
  try {
    const adapter = await globalThis.navigator?.gpu?.requestAdapter();
    return adapter ? describe(adapter) : undefined;
  } catch {
    // Some browsers reject where others give null.
    return undefined;
  }
}

function describe(adapter: GPUAdapter): AdapterInfo {
  const { info } = adapter;
  const limits: Record<string, number> = {};
  // The limits are getters of the prototype, which `Object.entries` does not see.
  for (const name in adapter.limits) {
    const value = adapter.limits[name as keyof GPUSupportedLimits];
    if (typeof value === 'number') limits[name] = value;
  }
  return {
    vendor: info.vendor,
    architecture: info.architecture,
    device: info.device,
    description: info.description,
    f16: adapter.features.has('shader-f16'),
    subgroups: adapter.features.has('subgroups') ? [info.subgroupMinSize, info.subgroupMaxSize] : null,
    limits,
    software: info.isFallbackAdapter || info.architecture === 'swiftshader',
  };
}
