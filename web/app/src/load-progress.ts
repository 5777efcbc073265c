/** What a load's progress says in words. */

import type { LoadProgress } from 'haikuq';
import { formatBytes, formatRemaining } from '../../shared/format.ts';

export interface ProgressText {
  /** What is being done. */
  doing: string;
  /** Bytes. */
  amount: string;
  /** Rate and time left, where something comes over the network. */
  rate: string;
}

export function describeProgress(progress: LoadProgress | null): ProgressText {
  if (progress === null || progress.phase === 'manifest') return { doing: 'Reading what the package holds', amount: '', rate: '' };
  const { phase, bytes, totalBytes, downloadedBytes, downloadTotalBytes, bytesPerSecond } = progress;
  const amount = `${formatBytes(bytes)} of ${formatBytes(totalBytes)}`;
  if (phase === 'compile') {
    const { compiled, total } = progress.kernels ?? { compiled: 0, total: 0 };
    return { doing: 'Compiling kernels for the GPU', amount: total > 0 ? `${compiled} of ${total}` : '', rate: '' };
  }
  if (phase === 'ready') return { doing: 'Ready', amount, rate: '' };
  if (downloadTotalBytes === 0) return { doing: 'Reading from this device', amount, rate: '' };
  const left = downloadTotalBytes - downloadedBytes;
  if (left <= 0) return { doing: 'Checking and moving to the GPU', amount, rate: '' };
  const rate = bytesPerSecond > 0 ? `${formatBytes(bytesPerSecond)}/s, ${formatRemaining(left / bytesPerSecond)} left` : '';
  const partly = downloadTotalBytes < totalBytes ? `, ${formatBytes(left)} still to download` : '';
  return { doing: 'Downloading', amount: amount + partly, rate };
}
