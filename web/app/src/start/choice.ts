/** What the user chose to load, and what was chosen last time. */

import type { PackageLocation } from 'haikuq';
import { packageName } from '../../../shared/packages.ts';
import { readKept, writeKept } from '../data/kept.ts';
import { rememberedFolder, rememberFolder } from '../data/database.ts';

export interface Choice {
  name: string;
  location: PackageLocation;
  /** Where the browser grants too little room: the weights go from the network to the GPU every time. */
  cache?: 'none';
}

export type LastChoice = { kind: 'url'; name: string; url: string } | { kind: 'folder'; name: string };

export const choiceOfUrl = (url: string): Choice => ({ name: packageName(url), location: url });

function isFolder(location: PackageLocation): location is FileSystemDirectoryHandle {
  return typeof FileSystemDirectoryHandle !== 'undefined' && location instanceof FileSystemDirectoryHandle;
}

export function lastChoice(): LastChoice | null {
  const kept = readKept('last-package') as Partial<Record<string, unknown>> | null;
  if (typeof kept?.['name'] !== 'string') return null;
  if (kept['kind'] === 'url' && typeof kept['url'] === 'string') return { kind: 'url', name: kept['name'], url: kept['url'] };
  return kept['kind'] === 'folder' ? { kind: 'folder', name: kept['name'] } : null;
}

/** Files that were dropped or picked one by one cannot be opened again by a page: nothing is remembered of them. */
export async function rememberChoice({ name, location }: Choice): Promise<void> {
  if (typeof location === 'string' || location instanceof URL) {
    writeKept('last-package', { kind: 'url', name, url: String(location) } satisfies LastChoice);
  } else if (isFolder(location)) {
    await rememberFolder(location);
    writeKept('last-package', { kind: 'folder', name } satisfies LastChoice);
  }
}

/** Opens what was chosen last; for a folder the browser may ask the user. `null` where it is gone. */
export async function reopen(last: LastChoice): Promise<Choice | null> {
  if (last.kind === 'url') return { name: last.name, location: last.url };
  const folder = await rememberedFolder().catch(() => undefined);
  if (!folder) return null;
  const permission = await folder.requestPermission({ mode: 'read' }).catch(() => 'denied' as const);
  return permission === 'granted' ? { name: folder.name, location: folder } : null;
}
