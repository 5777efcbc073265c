/** Whether this browser can run a model at all. */

import { useEffect, useState } from 'react';
import type { Failure } from '../../../shared/advice.ts';

const missing = (message: string): Failure => ({ code: 'webgpu-unavailable', message, details: {} });

/** What is missing, asked when the page opens: nobody is to choose a package in vain. `undefined` while nothing is known to be. */
export function useWebGpu(): Failure | undefined {
  const [failure, setFailure] = useState(() => ('gpu' in navigator ? undefined : missing('navigator.gpu is not there')));
  useEffect(() => {
    let current = true;
    if (!('gpu' in navigator)) return;
    navigator.gpu.requestAdapter().then(
      (adapter) => current && !adapter && setFailure(missing('the browser has WebGPU, but no graphics adapter for it')),
      (error: unknown) => current && setFailure(missing(error instanceof Error ? error.message : String(error))),
    );
    return () => void (current = false);
  }, []);
  return failure;
}
