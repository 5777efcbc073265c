import { useState } from 'react';
import { formatBytes, formatMilliseconds, formatRate } from '../../shared/format.ts';
import type { BenchReport, LoadRun } from './report.ts';

function download(text: string, name: string): void {
  const url = URL.createObjectURL(new Blob([text], { type: 'application/json' }));
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  URL.revokeObjectURL(url);
}

/** The rate of the whole, and what each stage alone would come to. */
function loadText({ ms, bytesPerSecond, stages }: LoadRun): string {
  const parts = Object.entries(stages ?? {}).filter(([, stage]) => stage.bytes > 0 && stage.ms > 0);
  const rates = parts.map(([name, stage]) => `${name} ${formatBytes((stage.bytes * 1000) / stage.ms)}/s`);
  return [`${formatMilliseconds(ms)}, ${formatBytes(bytesPerSecond)}/s`, ...rates].join('; ');
}

/** Facts about device, package and memory, and the whole result to take away. */
export function ReportView({ report }: { report: BenchReport }) {
  const [copied, setCopied] = useState<string | null>(null);
  const { adapter, memory, load } = report;
  const text = `${JSON.stringify(report, null, 2)}\n`;
  const gpu = memory.largest.weights + memory.largest.cache + memory.largest.scratch;
  const facts: [string, string][] = [
    ['Device', adapter.description || `${adapter.vendor} ${adapter.architecture}`.trim() || 'not named by the browser'],
    [
      'Abilities',
      `${adapter.f16 ? 'f16' : 'no f16'}, ${adapter.subgroups ? `subgroups of ${adapter.subgroups.join(' to ')}` : 'no subgroups'}`,
    ],
    ['Package', `${report.package.name}: ${report.package.recipe}, ${formatRate(report.package.bitsPerWeight)} bits a weight`],
    ['Numerics', report.package.numerics],
    ['Load', `${formatMilliseconds(load.ms)}, ${formatBytes(load.downloadedBytes)} downloaded`],
    ...report.loads.map((run): [string, string] => [`Load from the ${run.from}`, loadText(run)]),
    ['Graphics memory', `${formatBytes(gpu)}, ${formatBytes(memory.largest.cache)} of it key/value cache`],
    ['WebAssembly', formatBytes(memory.largest.wasm)],
  ];
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setCopied('Copied');
    } catch {
      setCopied('The browser does not allow it: select the text below');
    }
  };
  return (
    <section className="bench__report" aria-labelledby="report-title">
      <h2 id="report-title">Result</h2>
      <dl className="bench__facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt className="muted">{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      <p className="bench__actions">
        <button type="button" className="button" data-testid="bench-copy" onClick={() => void copy()}>
          Copy as JSON
        </button>
        <button
          type="button"
          className="button"
          data-testid="bench-download"
          onClick={() => download(text, `haikuq-bench-${report.package.name}-${report.date.slice(0, 10)}.json`)}
        >
          Download
        </button>
        <span role="status">{copied}</span>
      </p>
      <pre className="bench__json" tabIndex={0} data-testid="bench-json">
        {text}
      </pre>
    </section>
  );
}
