import { onTestFinished, vi } from 'vitest';

/** Frames that are drawn when the test says so. */
export function manualFrames() {
  const waiting = new Map<number, FrameRequestCallback>();
  let next = 1;
  vi.stubGlobal('requestAnimationFrame', (callback: FrameRequestCallback) => {
    waiting.set(next, callback);
    return next++;
  });
  vi.stubGlobal('cancelAnimationFrame', (handle: number) => void waiting.delete(handle));
  onTestFinished(() => void vi.unstubAllGlobals());
  return {
    get requested() {
      return waiting.size;
    },
    draw() {
      const due = [...waiting.values()];
      waiting.clear();
      for (const callback of due) callback(0);
    },
  };
}
