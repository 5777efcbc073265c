/** What GPU this is, without loading a model. */

import type { AdapterInfo, DeviceOptions } from '../types.js';
import { adapterFacts, offerAdapter } from '../worker/adapter.js';

/**
 * The adapter that WebGPU offers, or undefined where there is none. Downloads nothing and makes no device; a load on this
 * thread that wants such an adapter gets this one.
 */
export async function probeDevice(options: Pick<DeviceOptions, 'powerPreference'> = {}): Promise<AdapterInfo | undefined> {
  try {
    const adapter = await offerAdapter(options);
    return adapter ? describe(adapter) : undefined;
  } catch {
    // Some browsers reject where others give null.
    return undefined;
  }
}

function describe(adapter: GPUAdapter): AdapterInfo {
  const { features, info } = adapter;
  return {
    ...adapterFacts(adapter),
    f16: features.has('shader-f16'),
    subgroups: features.has('subgroups') ? [info.subgroupMinSize, info.subgroupMaxSize] : null,
  };
}
