import '../../shared/theme.css';
import './bench.css';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { openRuntime } from '../../shared/runtime.ts';
import { BenchPage } from './bench-page.tsx';
import type { BenchReport } from './report.ts';

declare global {
  interface Window {
    /** For scripts: settles when the first benchmark of this page does. */
    haikuqBench: Promise<BenchReport>;
  }
}

let onReport!: (report: BenchReport) => void;
let onFailure!: (error: unknown) => void;
window.haikuqBench = new Promise((resolve, reject) => {
  onReport = resolve;
  onFailure = reject;
});
// The page shows a failure; nobody has to be waiting for the promise.
window.haikuqBench.catch(() => undefined);

const runtime = await openRuntime();
createRoot(document.getElementById('root')!).render(
  <StrictMode>
    <BenchPage runtime={runtime} query={new URLSearchParams(location.search)} onReport={onReport} onFailure={onFailure} />
  </StrictMode>,
);
