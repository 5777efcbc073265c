/** Facts about the GPU, asked before anything is downloaded. */

import { HaikuqError } from '../errors.js';
import type { AdapterInfo, DeviceOptions } from '../types.js';

export type AdapterFacts = Omit<AdapterInfo, 'f16' | 'subgroups'>;

/** Rejects with `webgpu-unavailable`, and the reason as far as a page can know it. */
export async function describeAdapter(
  options: DeviceOptions,
  gpu: GPU | undefined = globalThis.navigator?.gpu,
): Promise<AdapterFacts & { adapter: GPUAdapter }> {
  if (!gpu) {
    throw unavailable(
      globalThis.isSecureContext === false
        ? 'this page is not a secure context, use https or localhost'
        : 'this browser does not offer WebGPU (here: a worker or an older browser may lack what the page has)',
    );
  }
  const adapter = takeOffered(gpu, options) ?? (await requestAdapter(gpu, options));
  if (!adapter) throw unavailable('the browser found no adapter: the GPU may be blocklisted, disabled, or absent');
  return { ...adapterFacts(adapter), adapter };
}

export function adapterFacts(adapter: GPUAdapter): AdapterFacts {
  const { vendor, architecture, device, description } = adapter.info;
  const limits: Record<string, number> = {};
  // Limits are accessors of the prototype: no object spread sees them.
  for (const name in adapter.limits) {
    const value: unknown = adapter.limits[name as keyof GPUSupportedLimits];
    if (typeof value === 'number') limits[name] = value;
  }
  return { vendor, architecture, device, description, limits, software: isSoftware(adapter.info) };
}

/** Adapters that were asked for before a load, each with the preference; one of them gives one device. */
const offered = new WeakMap<GPU, { adapter: GPUAdapter; powerPreference: DeviceOptions['powerPreference'] }>();

/** Asks for an adapter, for the next load on this thread that has the same preference. */
export async function offerAdapter(options: DeviceOptions, gpu: GPU | undefined = globalThis.navigator?.gpu): Promise<GPUAdapter | null> {
  const adapter = gpu ? await requestAdapter(gpu, options) : null;
  if (gpu && adapter) offered.set(gpu, { adapter, powerPreference: options.powerPreference });
  return adapter;
}

function takeOffered(gpu: GPU, { powerPreference }: DeviceOptions): GPUAdapter | undefined {
  const offer = offered.get(gpu);
  if (offer?.powerPreference !== powerPreference) return undefined;
  offered.delete(gpu);
  return offer?.adapter;
}

async function requestAdapter(gpu: GPU, { powerPreference }: DeviceOptions): Promise<GPUAdapter | null> {
  try {
    return await gpu.requestAdapter(powerPreference ? { powerPreference } : {});
  } catch (error) {
    throw unavailable(error instanceof Error ? error.message : String(error), error);
  }
}

/** Not every browser flags its software adapters. */
function isSoftware(info: GPUAdapterInfo): boolean {
  const words = [info.vendor, info.architecture, info.device, info.description].join(' ');
  return info.isFallbackAdapter || /swiftshader|llvmpipe|lavapipe|software|basic render/i.test(words);
}

function unavailable(why: string, cause?: unknown): HaikuqError {
  return new HaikuqError('webgpu-unavailable', `WebGPU is not available: ${why}`, {}, { cause });
}
