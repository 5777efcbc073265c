import type { LoadProgress } from 'haikuq';
import { expect, it } from 'vitest';
import { describeProgress } from './load-progress.ts';

const progress = (change: Partial<LoadProgress>): LoadProgress => ({
  phase: 'download',
  bytes: 10e6,
  totalBytes: 100e6,
  downloadedBytes: 20e6,
  downloadTotalBytes: 100e6,
  bytesPerSecond: 2e6,
  ...change,
});

it('has nothing to count before the manifest is there', () => {
  expect(describeProgress(null)).toEqual({ doing: 'Reading what the package holds', amount: '', rate: '' });
});

it('says how fast a download is and how long it takes', () => {
  expect(describeProgress(progress({}))).toEqual({ doing: 'Downloading', amount: '10 MB of 100 MB', rate: '2 MB/s, 40 s left' });
});

it('makes no guess before there is a rate', () => {
  expect(describeProgress(progress({ bytesPerSecond: 0 })).rate).toBe('');
});

it('says how much is still to come where part is stored', () => {
  expect(describeProgress(progress({ downloadTotalBytes: 50e6 })).amount).toBe('10 MB of 100 MB, 30 MB still to download');
});

it('names the store where nothing is downloaded', () => {
  expect(describeProgress(progress({ phase: 'upload', downloadTotalBytes: 0, downloadedBytes: 0 })).doing).toBe('Reading from this device');
});

it('counts kernels while they compile', () => {
  const text = describeProgress(progress({ phase: 'compile', kernels: { compiled: 7, total: 40 } }));
  expect(text).toEqual({ doing: 'Compiling kernels for the GPU', amount: '7 of 40', rate: '' });
});

it('names the last stretch after the download', () => {
  expect(describeProgress(progress({ phase: 'upload', downloadedBytes: 100e6 })).doing).toBe('Checking and moving to the GPU');
});
