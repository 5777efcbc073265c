/** What the user dropped or picked: a folder, or files. */

import type { Choice } from './choice.ts';

/** A choice of picked or dropped files, named after their folder. */
export function choiceOfFiles(files: readonly File[]): Choice | null {
  if (files.length === 0) return null;
  const folder = files.find((file) => file.webkitRelativePath !== '')?.webkitRelativePath.split('/', 1)[0];
  return { name: folder ?? (files.length === 1 ? files[0]!.name : `${files.length} files`), location: files };
}

const entriesOf = (directory: FileSystemDirectoryEntry): Promise<FileSystemEntry[]> => {
  const reader = directory.createReader();
  return new Promise((resolve, reject) => {
    const all: FileSystemEntry[] = [];
    // A reader hands out at most 100 entries a call, and none at the end.
    const next = () =>
      reader.readEntries((entries) => {
        all.push(...entries);
        if (entries.length === 0) resolve(all);
        else next();
      }, reject);
    next();
  });
};

const fileOf = (entry: FileSystemFileEntry): Promise<File> => new Promise((resolve, reject) => entry.file(resolve, reject));

/** The files of one folder; a package has no folders inside. */
async function filesOf(entry: FileSystemEntry): Promise<File[]> {
  if (entry.isFile) return [await fileOf(entry as FileSystemFileEntry)];
  const inside = await entriesOf(entry as FileSystemDirectoryEntry);
  return Promise.all(inside.filter(({ isFile }) => isFile).map((file) => fileOf(file as FileSystemFileEntry)));
}

/** Whether something is dragged that may be a package. */
export const holdsFiles = (data: DataTransfer | null): boolean => data?.types.includes('Files') ?? false;

/** What was dropped. Call it in the event itself: a browser forgets the data when the event is over. */
export async function choiceOfDrop(data: DataTransfer): Promise<Choice | null> {
  const items = [...data.items].filter(({ kind }) => kind === 'file');
  const handle = items.length === 1 ? items[0]?.getAsFileSystemHandle?.() : undefined;
  const entries = items.map((item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
  // With a handle the folder can be opened again on the next visit.
  const opened = await handle?.catch(() => null);
  if (opened?.kind === 'directory') return { name: opened.name, location: opened as FileSystemDirectoryHandle };
  const files = (await Promise.all(entries.map(filesOf))).flat();
  const choice = choiceOfFiles(files);
  const folder = entries.find(({ isDirectory }) => isDirectory);
  return choice && folder ? { ...choice, name: folder.name } : choice;
}
