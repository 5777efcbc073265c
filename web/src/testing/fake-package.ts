/** Small packages with real hashes. */

import type { PackageFile } from '../store/manifest.js';

export interface FakePackage {
  manifest: string;
  /** All files, the manifest included. */
  files: Record<string, Uint8Array<ArrayBuffer>>;
  shards: PackageFile[];
}

type Files = Record<string, Uint8Array<ArrayBuffer>>;

/** A package of these shards and other files, by name. */
export async function fakePackage(shards: Files, files: Files = {}): Promise<FakePackage> {
  const entries = async (from: Files): Promise<PackageFile[]> =>
    Promise.all(Object.entries(from).map(async ([name, bytes]) => ({ name, bytes: bytes.length, sha256: await sha256(bytes) })));
  const shardList = await entries(shards);
  const manifest = JSON.stringify({ format: 'haikuq', version: { major: 2, minor: 0 }, shards: shardList, files: await entries(files) });
  return { manifest, shards: shardList, files: { ...shards, ...files, 'haikuq.json': new TextEncoder().encode(manifest) } };
}

/** Bytes that depend on `seed` alone. */
export function someBytes(length: number, seed: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  let state = seed * 2654435761 + 1;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return hex(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)));
}

export const hex = (bytes: Uint8Array) => [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
