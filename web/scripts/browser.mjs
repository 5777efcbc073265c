// Where tests and scripts find the browser and the program.
import { existsSync, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const repository = fileURLToPath(new URL('../..', import.meta.url));

/**
 * WebGPU without a GPU needs the one flag `--enable-unsafe-webgpu`; the others keep the browser off the network and let
 * it run as root in containers.
 */
export const chromiumFlags = [
  '--no-sandbox',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
export const webgpuFlag = '--enable-unsafe-webgpu';

/** Chromium's program: `HAIKUQ_CHROMIUM`, or Debian's. Throws where there is none. */
export function findChromium() {
  const path = process.env.HAIKUQ_CHROMIUM || '/usr/bin/chromium';
  if (!isFile(path)) throw new Error(`no Chromium at ${path}: install it, or set HAIKUQ_CHROMIUM to its path`);
  return path;
}

/** The program `haikuq`: `HAIKUQ_BIN`, or the release build, or the one in PATH. Throws where there is none. */
export function findHaikuq() {
  const chosen = process.env.HAIKUQ_BIN;
  if (chosen) {
    if (!isFile(chosen)) throw new Error(`HAIKUQ_BIN is ${chosen}, which is no file`);
    return chosen;
  }
  const target = process.env.CARGO_TARGET_DIR || join(repository, 'target');
  const folders = (process.env.PATH ?? '').split(delimiter).filter((folder) => folder !== '');
  const found = [join(target, 'release'), ...folders].map((folder) => join(folder, 'haikuq')).find(isFile);
  if (!found) throw new Error('no program haikuq: build it (cargo build --release), or set HAIKUQ_BIN to its path');
  return found;
}

/** @param {string} path */
function isFile(path) {
  return existsSync(path) && statSync(path).isFile();
}
