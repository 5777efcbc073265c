/** Where a package lies, in a form that can be sent to a worker. */

import { HaikuqError } from '../errors.js';
import type { PackageLocation } from '../types.js';
import { MANIFEST } from './manifest.js';

export type ResolvedLocation =
  /** The prefix ends in `/`; a query, such as a signature, is sent with every file. */
  | { kind: 'url'; name: string; prefix: string }
  | { kind: 'folder'; name: string; handle: FileSystemDirectoryHandle }
  | { kind: 'files'; name: string; files: PickedFile[] };

/** A file of a list, or what a file picker gives. */
export type PickedFile = File | FileSystemFileHandle;

/** Relative URLs are resolved against `base`, by default the page's or the worker's. Throws `invalid-argument`. */
export function resolveLocation(
  location: PackageLocation,
  base = globalThis.document?.baseURI ?? globalThis.location?.href,
): ResolvedLocation {
  if (typeof location === 'string' || location instanceof URL) return resolveUrl(location, base);
  if (typeof location !== 'object' || location === null) throw invalid(String(location));
  if ('kind' in location) {
    if (location.kind !== 'directory') throw invalid('a handle that is not a directory’s');
    return { kind: 'folder', name: location.name, handle: location };
  }
  if (!(Symbol.iterator in location)) throw invalid(String(location));
  const files = packageFiles([...location]);
  const folder = files[0] && folderOf(files[0]).split('/').at(-2);
  return { kind: 'files', name: folder || 'package', files };
}

/** The URL of a file. The hash in the query lets servers and caches treat the answer as immutable. */
export function fileUrl(prefix: string, name: string, sha256?: string): string {
  const url = new URL(prefix);
  url.pathname += name;
  if (sha256 !== undefined) url.searchParams.set('sha256', sha256);
  return url.href;
}

/** What a stored package is known by: its prefix without query, since queries carry signatures that change. */
export function packageKey(prefix: string): string {
  // Not by the origin, which is "null" for the schemes of extensions and apps.
  const { protocol, host, pathname } = new URL(prefix);
  return `${protocol}//${host}${pathname}`;
}

function resolveUrl(location: string | URL, base: string | undefined): ResolvedLocation {
  let url: URL;
  try {
    url = new URL(location, base);
  } catch {
    throw invalid(String(location));
  }
  if (url.protocol === 'file:') throw invalid(url.href, 'pages cannot fetch files; serve the folder over http, or let the user pick it');
  // Extensions and apps have schemes of their own, such as chrome-extension: or tauri:, with folders as http has them.
  if (!url.href.startsWith(`${url.protocol}//`)) throw invalid(url.href, 'expected the URL of a folder');
  if (url.username || url.password) throw invalid(url.host, 'credentials do not belong in a URL');
  url.hash = '';
  if (url.pathname.endsWith(`/${MANIFEST}`)) url.pathname = url.pathname.slice(0, -MANIFEST.length);
  if (!url.pathname.endsWith('/')) url.pathname += '/';
  const last = url.pathname.split('/').at(-2);
  return { kind: 'url', name: last ? decode(last) : url.hostname || 'package', prefix: url.href };
}

/** The files beside the manifest: a dropped folder may hold others, and more than one package. */
function packageFiles(files: PickedFile[]): PickedFile[] {
  for (const file of files)
    if (!(file instanceof File) && (file as FileSystemFileHandle | null)?.kind !== 'file')
      throw invalid(String(file), 'expected File objects');
  const manifests = files.filter((file) => file.name === MANIFEST);
  if (manifests.length > 1) {
    const where = manifests.map(folderOf).join(', ');
    throw new HaikuqError('invalid-argument', `location: ${manifests.length} packages among the files (${where}), expected one`);
  }
  const [manifest] = manifests;
  return manifest ? files.filter((file) => folderOf(file) === folderOf(manifest)) : files;
}

/** Ends in `/`; empty for a file that was picked by itself. */
function folderOf(file: PickedFile): string {
  const { name, webkitRelativePath = '' } = file as File;
  return webkitRelativePath.slice(0, -name.length);
}

function decode(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

function invalid(value: string, why = 'expected a URL, a folder or files'): HaikuqError {
  return new HaikuqError('invalid-argument', `location: ${value}: ${why}`);
}
