import { expect, it } from 'vitest';
import type { LoadProgress } from '../types.js';
import { progressReporter } from './progress.js';

function reporter() {
  let time = 0;
  const told: LoadProgress[] = [];
  return {
    told,
    progress: progressReporter(
      (progress) => told.push(progress),
      () => time,
    ),
    wait: (ms: number) => (time += ms),
  };
}
const phases = (told: LoadProgress[]) => told.map(({ phase, bytes, downloadedBytes }) => [phase, bytes, downloadedBytes]);

it('tells every phase to its end, and no more than ten times a second', () => {
  const { told, progress, wait } = reporter();
  progress.downloaded({ downloadedBytes: 0, downloadTotalBytes: 100 });
  progress.manifest(90);
  for (let i = 1; i <= 10; i++) {
    wait(25);
    progress.downloaded({ downloadedBytes: 10 * i, downloadTotalBytes: 100 });
    if (i === 6) progress.uploaded(40, 90);
  }
  progress.uploaded(90, 90);
  progress.ready();
  expect(phases(told)).toEqual([
    ['manifest', 0, 0],
    ['download', 0, 40],
    ['download', 40, 80],
    ['download', 40, 100],
    ['upload', 90, 100],
    ['ready', 90, 100],
  ]);
});

it('knows no download where everything is stored', () => {
  const { told, progress, wait } = reporter();
  progress.manifest(90);
  wait(200);
  progress.uploaded(50, 90);
  wait(200);
  progress.uploaded(90, 90);
  progress.ready();
  expect(phases(told)).toEqual([
    ['manifest', 0, 0],
    ['upload', 50, 0],
    ['upload', 90, 0],
    ['ready', 90, 0],
  ]);
});

it('tells of kernels that are compiled when all bytes are there', () => {
  const { told, progress, wait } = reporter();
  progress.manifest(90);
  progress.uploaded(90, 90);
  for (let i = 0; i <= 4; i++) {
    progress.compiled(i, 4);
    wait(60);
  }
  progress.ready();
  expect(told.map(({ phase, bytes, kernels }) => [phase, bytes, kernels?.compiled])).toEqual([
    ['manifest', 0, undefined],
    ['upload', 90, undefined],
    ['compile', 90, 0],
    ['compile', 90, 2],
    ['compile', 90, 4],
    ['ready', 90, 4],
  ]);
});

it('tells nothing more after the end', () => {
  const { told, progress, wait } = reporter();
  progress.manifest(90);
  progress.uploaded(90, 90);
  progress.ready();
  const before = [...told];
  wait(200);
  progress.downloaded({ downloadedBytes: 0, downloadTotalBytes: 100 });
  wait(200);
  progress.downloaded({ downloadedBytes: 50, downloadTotalBytes: 100 });
  progress.downloaded({ downloadedBytes: 100, downloadTotalBytes: 100 });
  wait(200);
  progress.uploaded(40, 90);
  expect(told).toEqual(before);
});

it('averages the rate over the last seconds, and forgets what a new start takes back', () => {
  const { told, progress, wait } = reporter();
  progress.manifest(10_000);
  for (let i = 1; i <= 5; i++) {
    wait(1000);
    progress.downloaded({ downloadedBytes: 1000 * i, downloadTotalBytes: 10_000 });
  }
  expect(told.at(-1)?.bytesPerSecond).toBeCloseTo(4000 / 3);
  wait(500);
  progress.downloaded({ downloadedBytes: 0, downloadTotalBytes: 10_000 });
  expect(told.at(-1)?.bytesPerSecond).toBeGreaterThan(0);
  wait(5000);
  progress.downloaded({ downloadedBytes: 1, downloadTotalBytes: 10_000 });
  expect(told.at(-1)?.bytesPerSecond).toBe(10);
});
