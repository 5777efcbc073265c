import { formatCount, formatMilliseconds, formatRate } from '../../shared/format.ts';
import type { CaseResult, SkippedCase } from './report.ts';
import type { Spread } from './statistics.ts';

function SpreadCell({ spread, format }: { spread: Spread | null; format: (value: number) => string }) {
  if (spread === null) return <td>–</td>;
  return (
    <td>
      {format(spread.median)}
      {spread.min !== spread.max && (
        <span className="muted small">
          {' '}
          {format(spread.min)} to {format(spread.max)}
        </span>
      )}
    </td>
  );
}

export function ResultTable({ results, skipped }: { results: readonly CaseResult[]; skipped: readonly SkippedCase[] }) {
  return (
    <div className="bench__scroll" role="region" aria-label="Results" tabIndex={0}>
      <table data-testid="bench-table">
        <caption className="muted small">Medians, with the least and the most of the repetitions</caption>
        <thead>
          <tr>
            <th scope="col">Prompt</th>
            <th scope="col">Output</th>
            <th scope="col">Prefill, tokens/s</th>
            <th scope="col">First token after</th>
            <th scope="col">Decode, tokens/s</th>
          </tr>
        </thead>
        <tbody>
          {results.map((result) => (
            <tr key={`${result.promptTokens} ${result.outputTokens}`}>
              <td>{formatCount(result.promptTokens)}</td>
              <td>{formatCount(result.outputTokens)}</td>
              <SpreadCell spread={result.prefillTokensPerSecond} format={formatRate} />
              <SpreadCell spread={result.timeToFirstTokenMs} format={formatMilliseconds} />
              <SpreadCell spread={result.decodeTokensPerSecond} format={formatRate} />
            </tr>
          ))}
          {skipped.map(({ promptTokens, outputTokens, reason }) => (
            <tr key={`${promptTokens} ${outputTokens}`}>
              <td>{formatCount(promptTokens)}</td>
              <td>{formatCount(outputTokens)}</td>
              <td colSpan={3} className="muted">
                left out: {reason}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
