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

const CHROMIUMS = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];

/** Chromium's program: `HAIKUQ_CHROMIUM`, or Debian's, or one in PATH. Throws where there is none. */
export function findChromium() {
  const chosen = process.env.HAIKUQ_CHROMIUM;
  if (chosen) {
    if (!isFile(chosen)) throw new Error(`HAIKUQ_CHROMIUM is ${chosen}, which is no file`);
    return chosen;
  }
  const found = ['/usr/bin', ...searchPath()].flatMap((folder) => CHROMIUMS.map((name) => join(folder, name))).find(isFile);
  if (!found) throw new Error('no Chromium or Chrome: install it, or set HAIKUQ_CHROMIUM to its path');
  return found;
}

/** The program `haikuq`: `HAIKUQ_BIN`, or the release build, or the one in PATH. Throws where there is none. */
export function findHaikuq() {
  const chosen = process.env.HAIKUQ_BIN;
  if (chosen) {
    if (!isFile(chosen)) throw new Error(`HAIKUQ_BIN is ${chosen}, which is no file`);
    return chosen;
  }
  const target = process.env.CARGO_TARGET_DIR || join(repository, 'target');
  const found = [join(target, 'release'), ...searchPath()].map((folder) => join(folder, 'haikuq')).find(isFile);
  if (!found) throw new Error('no program haikuq: build it (cargo build --release), or set HAIKUQ_BIN to its path');
  return found;
}

function searchPath() {
  return (process.env.PATH ?? '').split(delimiter).filter((folder) => folder !== '');
}

/** @param {string} path */
function isFile(path) {
  return existsSync(path) && statSync(path).isFile();
}
