import { useEffect, useRef, useState, type FormEvent } from 'react';
import { HaikuqError } from 'haikuq';
import { failureOf, type Failure } from '../../shared/advice.ts';
import { ErrorCard } from '../../shared/error-card.tsx';
import { requireAllowedOrigin, sameOrigin } from '../../shared/origins.ts';
import { fetchPackageIndex, packageUrl, type OfferedPackage } from '../../shared/packages.ts';
import type { Runtime } from '../../shared/runtime.ts';
import { runBench, type BenchStep } from './measure.ts';
import { fieldsOfQuery, parseOptions, type OptionFields } from './options.ts';
import { OptionsForm } from './options-form.tsx';
import { ProfileView } from './profile-view.tsx';
import { ReportView } from './report-view.tsx';
import type { BenchReport, CaseResult } from './report.ts';
import { ResultTable } from './result-table.tsx';

export interface BenchPageProps {
  runtime: Runtime;
  /** Of the page's address: what to measure, and with `auto=1` to begin at once. */
  query: URLSearchParams;
  onReport: (report: BenchReport) => void;
  onFailure: (error: unknown) => void;
}

/** The app's address, from which packages are counted: this page is in a folder of it. */
const siteRoot = new URL('..', document.baseURI).href;

export function BenchPage({ runtime, query, onReport, onFailure }: BenchPageProps) {
  const [packages, setPackages] = useState<OfferedPackage[]>([]);
  const [address, setAddress] = useState(query.get('package') ?? '');
  const [fields, setFields] = useState<OptionFields>(() => fieldsOfQuery(query));
  const [running, setRunning] = useState<AbortController | null>(null);
  const [step, setStep] = useState<BenchStep | null>(null);
  const [results, setResults] = useState<readonly CaseResult[]>([]);
  const [report, setReport] = useState<BenchReport | null>(null);
  const [failure, setFailure] = useState<Failure | null>(null);

  /** `unasked`: by the page's address alone, which somebody else may have written. */
  const run = async (chosen: string, fields: OptionFields, unasked = false) => {
    const controller = new AbortController();
    setRunning(controller);
    setStep(null);
    setResults([]);
    setReport(null);
    setFailure(null);
    try {
      const location = packageUrl(chosen, siteRoot);
      requireAllowedOrigin(location, siteRoot);
      if (unasked && !sameOrigin(location, siteRoot)) {
        const { origin } = new URL(location);
        throw new HaikuqError('invalid-argument', `the link names a package on ${origin}: choose Run to load it from there`);
      }
      const options = parseOptions(fields);
      const { signal } = controller;
      const finished = await runBench({ runtime, location, options, signal, onStep: setStep, onResults: setResults });
      setReport(finished);
      onReport(finished);
    } catch (error) {
      // Stopping leaves what was measured until then in the table.
      if (!controller.signal.aborted) setFailure(failureOf(error));
      onFailure(error);
    } finally {
      setRunning(null);
      setStep(null);
    }
  };

  const begun = useRef(false);
  // biome-ignore lint/correctness/useExhaustiveDependencies: once, with the address that the page was opened with
  useEffect(() => {
    if (begun.current) return;
    begun.current = true;
    void fetchPackageIndex(siteRoot).then(({ packages, load }) => {
      setPackages(packages);
      const chosen = address || (packages[0]?.url ?? '');
      setAddress(chosen);
      // The address goes before what the server says.
      const asked = query.has('numerics') ? fields : { ...fields, ...load };
      setFields(asked);
      if (query.get('auto') === '1') void run(chosen, asked, query.has('package'));
    });
    // Once, with what the address says.
  }, []);

  const submit = (event: FormEvent) => {
    event.preventDefault();
    void run(address, fields);
  };

  return (
    <main className="bench">
      <header className="bench__head">
        <h1>Benchmark</h1>
        <p className="muted">
          Measures a haikuq package on this device: how fast it reads a prompt, how soon it answers, how fast it writes, and what memory it
          takes. Nothing is sent anywhere. Keep this tab in front while it runs.
        </p>
      </header>

      <OptionsForm
        packages={packages}
        siteRoot={siteRoot}
        address={address}
        fields={fields}
        running={running !== null}
        onAddress={setAddress}
        onFields={setFields}
        onSubmit={submit}
        onStop={() => running?.abort()}
      />

      <div className="bench__progress" data-testid="bench-progress">
        {running !== null && (
          <>
            {step?.done == null ? <progress aria-label="Benchmark" /> : <progress aria-label="Benchmark" value={step.done} max={1} />}
            <p role="status">{step?.doing ?? 'Starting'}…</p>
          </>
        )}
      </div>

      {failure && <ErrorCard failure={failure} />}
      {results.length > 0 && <ResultTable results={results} skipped={report?.skipped ?? []} />}
      {report?.profile && <ProfileView profile={report.profile} />}
      {report && <ReportView report={report} />}
      <p className="small">
        <a href={siteRoot}>To the chat</a>
      </p>
    </main>
  );
}
