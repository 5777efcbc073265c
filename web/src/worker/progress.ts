/** Progress of a load: how it is put together from downloads and uploads, and how often it is told. */

import type { DownloadCounts } from '../store/download.js';
import type { LoadProgress, LoadStages } from '../types.js';

const INTERVAL_MS = 100;
/** The rate is averaged over so long. */
const WINDOW_MS = 3_000;

export interface ProgressReporter {
  /** What there is to load. */
  manifest(totalBytes: number): void;
  downloaded(counts: DownloadCounts): void;
  /** Bytes checked and on the GPU. */
  uploaded(bytes: number, totalBytes: number): void;
  /** Kernels, once all bytes are there. */
  compiled(kernels: number, total: number): void;
  /** The load is over; nothing is told after this. Files that a lost device needs again are no part of it. */
  ready(stages?: LoadStages): void;
}

/** `now` in milliseconds. */
export function progressReporter(report: (progress: LoadProgress) => void, now: () => number = () => performance.now()): ProgressReporter {
  const state: LoadProgress = {
    phase: 'manifest',
    bytes: 0,
    totalBytes: 0,
    downloadedBytes: 0,
    downloadTotalBytes: 0,
    bytesPerSecond: 0,
  };
  const rate = slidingRate(now);
  let reported = -Infinity;
  /** What the last report said, lest the end of a phase is told twice. */
  let last = '';
  let over = false;

  function tell(): void {
    if (over) return;
    state.bytesPerSecond = rate.bytesPerSecond();
    const { bytesPerSecond: _, ...facts } = state;
    const said = JSON.stringify(facts);
    if (said === last) return;
    last = said;
    reported = now();
    report({ ...state });
  }
  function tellSometimes(): void {
    if (now() - reported >= INTERVAL_MS) tell();
  }
  /** The end of a phase is always told, with its own name. */
  function enter(phase: LoadProgress['phase']): void {
    if (phase === state.phase) return;
    tell();
    state.phase = phase;
  }
  return {
    manifest(totalBytes) {
      state.totalBytes = totalBytes;
      tell();
    },
    downloaded(counts) {
      // Before the first byte, this is still about what there is to load.
      if (counts.downloadedBytes > 0 && state.phase === 'manifest') enter('download');
      rate.add(counts.downloadedBytes - state.downloadedBytes);
      Object.assign(state, counts);
      if (state.phase === 'manifest') return;
      if (state.downloadedBytes === state.downloadTotalBytes) enter('upload');
      else tellSometimes();
    },
    uploaded(bytes, totalBytes) {
      if (state.downloadedBytes === state.downloadTotalBytes) enter('upload');
      Object.assign(state, { bytes, totalBytes });
      // The next steps may take their time.
      if (bytes === totalBytes) tell();
      else tellSometimes();
    },
    compiled(compiled, total) {
      enter('compile');
      state.kernels = { compiled, total };
      if (compiled === 0 || compiled === total) tell();
      else tellSometimes();
    },
    ready(stages) {
      enter('ready');
      if (stages) state.stages = stages;
      tell();
      over = true;
    },
  };
}

function slidingRate(now: () => number) {
  const samples: { at: number; bytes: number }[] = [];
  return {
    add(bytes: number): void {
      // A download that starts again takes back what it counted; that is no speed.
      if (bytes > 0) samples.push({ at: now(), bytes });
    },
    bytesPerSecond(): number {
      const since = now() - WINDOW_MS;
      while (samples[0] && samples[0].at < since) samples.shift();
      const [first] = samples;
      if (!first) return 0;
      const seconds = Math.max(now() - first.at, INTERVAL_MS) / 1000;
      return samples.reduce((sum, sample) => sum + sample.bytes, 0) / seconds;
    },
  };
}
