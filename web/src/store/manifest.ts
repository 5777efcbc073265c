/**
 * What storing needs to know of a package's manifest (docs/package-format.md): names, sizes and hashes. All the rest is
 * checked by the engine, which reads the same text.
 */

import { HaikuqError } from '../errors.js';

export const MANIFEST = 'haikuq.json';

/** Of the format that the engine reads. */
export const MAJOR_VERSION = 2;

/** A larger manifest is refused unread, as the engine does. */
export const MAX_MANIFEST_BYTES = 64 * 1024 * 1024;

export interface PackageFile {
  name: string;
  bytes: number;
  /** 64 lower-case hexadecimal digits; safe as a file name. */
  sha256: string;
}

export interface Manifest {
  text: string;
  shards: PackageFile[];
  files: PackageFile[];
}

/** Throws `invalid-package`, naming what is wrong. */
export function parseManifest(text: string): Manifest {
  const manifest = parseObject(text);
  if (manifest.format !== 'haikuq') throw invalid(`"format" is ${JSON.stringify(manifest.format)}, expected "haikuq"`);
  const { major, minor } = asObject(manifest.version) ?? {};
  if (major !== MAJOR_VERSION) {
    const wayOut = Number(major) < MAJOR_VERSION ? 'convert the checkpoint again with the haikuq of this version' : 'use a newer haikuq';
    throw invalid(`format version ${String(major)}.${String(minor)} is not supported; this runtime reads ${MAJOR_VERSION}.x: ${wayOut}`);
  }
  const shards = parseFiles('shards', manifest.shards);
  if (shards.length === 0) throw invalid('"shards" is empty');
  const files = parseFiles('files', manifest.files ?? []);
  const names = new Set([MANIFEST]);
  for (const { name } of [...shards, ...files]) {
    if (names.has(name)) throw invalid(`${name} is listed twice`);
    names.add(name);
  }
  return { text, shards, files };
}

/** All files but the manifest, in the order in which an engine reads them. */
export function filesInReadingOrder(manifest: Manifest): PackageFile[] {
  return [...manifest.files, ...manifest.shards];
}

/** Letters, digits, `.`, `_`, `-`, not beginning with `.`: nothing that could leave the package's folder. */
export function isPlainName(name: string): boolean {
  return /^[A-Za-z0-9_-][A-Za-z0-9._-]*$/.test(name);
}

function parseObject(text: string): Record<string, unknown> {
  try {
    const object = asObject(JSON.parse(text));
    if (object) return object;
  } catch (error) {
    throw invalid(`not JSON (${(error as Error).message})`);
  }
  throw invalid('not a JSON object');
}

function parseFiles(member: string, value: unknown): PackageFile[] {
  if (!Array.isArray(value)) throw invalid(`"${member}" is not a list`);
  return value.map((entry, i) => {
    const { name, bytes, sha256 } = asObject(entry) ?? {};
    const where = `${member}[${i}]`;
    if (typeof name !== 'string' || !isPlainName(name)) throw invalid(`${where}: ${JSON.stringify(name)} is not a plain file name`);
    if (!Number.isSafeInteger(bytes) || (bytes as number) < 0) throw invalid(`${where}: "bytes" of ${name} is ${String(bytes)}`);
    if (typeof sha256 !== 'string' || !/^[0-9a-f]{64}$/.test(sha256)) throw invalid(`${where}: "sha256" of ${name} is malformed`);
    return { name, bytes: bytes as number, sha256 };
  });
}

function asObject(value: unknown): Record<string, unknown> | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined;
}

function invalid(why: string): HaikuqError {
  return new HaikuqError('invalid-package', `${MANIFEST}: ${why}`, { file: MANIFEST });
}
