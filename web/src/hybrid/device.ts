/** What GPU this is, without loading a model. */

import type { AdapterInfo } from '../types.js';
import { adapterFacts } from '../worker/adapter.js';

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
  const { features, info } = adapter;
  return {
    ...adapterFacts(adapter),
    f16: features.has('shader-f16'),
    subgroups: features.has('subgroups') ? [info.subgroupMinSize, info.subgroupMaxSize] : null,
  };
}
