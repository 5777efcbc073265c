import type { ModelProfile, OperationProfile, StepProfile } from 'haikuq';
import { formatCount, formatFine, formatRate } from '../../shared/format.ts';

/** Timestamps that are finer than this are as the device made them. */
const ROUNDED_MS = 0.05;

/** What a reader has to know of the times. */
function hint({ timestampMs }: ModelProfile): string {
  if (timestampMs === null) {
    return 'The browser offers no timestamp-query for this device, so nothing is known of the GPU’s own time.';
  }
  if (timestampMs < ROUNDED_MS) return 'An operation’s time is the mean of many in a row.';
  return (
    `The browser rounds the GPU’s timestamps to ${formatFine(timestampMs)} ms: an operation’s time is the mean of as many in a row as ` +
    'take 10 ms. Chromium that is started with --enable-webgpu-developer-features does not round.'
  );
}

const ms = (value: number | null): string => (value === null ? '–' : formatFine(value));

/** Bytes or floating-point operations a second; nothing where either is not known. */
const rate = (amount: number, { gpuMs }: OperationProfile): number | null =>
  amount > 0 && gpuMs !== null && gpuMs > 0 ? (amount * 1000) / gpuMs : null;

function StepTable({ step, limit }: { step: StepProfile; limit: number }) {
  const tokens = `${formatCount(step.tokens)} ${step.tokens === 1 ? 'token' : 'tokens'}`;
  const gpu = step.gpuMs === null ? '' : `${ms(step.gpuMs)} ms on the GPU as one pass; `;
  const processor = `${ms(step.encodeMs)} ms to encode, ${ms(step.submitMs)} ms to submit, then ${ms(step.waitMs)} ms of waiting`;
  return (
    <div className="bench__scroll" role="region" aria-label={`Profile of ${step.phase}`} tabIndex={0}>
      <table className="bench__profile" data-testid={`bench-profile-${step.phase}`}>
        <caption>
          <strong>
            {step.phase} of {tokens} at depth {formatCount(step.depth)}:
          </strong>
          <span className="muted small">
            {' '}
            {gpu}
            {processor}; {formatCount(step.dispatches)} dispatches
          </span>
        </caption>
        <thead>
          <tr>
            {['Operation', 'Kernel', 'Shape', 'Count', 'ms', 'µs each', 'GB/s', 'of limit', 'TFLOP/s'].map((name) => (
              <th key={name} scope="col">
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {step.operations.map((operation) => {
            const { gpuMs, count } = operation;
            const [bytes, flops] = [rate(operation.bytes, operation), rate(operation.flops, operation)];
            return (
              <tr key={`${operation.operation} ${operation.kernel} ${operation.shape}`}>
                <td>{operation.operation}</td>
                <td>{operation.kernel}</td>
                <td>{operation.shape}</td>
                <td>{formatCount(count)}</td>
                <td>{ms(gpuMs)}</td>
                <td>{gpuMs === null ? '–' : formatRate((gpuMs * 1000) / count)}</td>
                <td>{bytes === null ? '–' : formatRate(bytes / 1e9)}</td>
                <td>{bytes === null ? '–' : `${formatCount((100 * bytes) / limit)} %`}</td>
                <td>{flops === null ? '–' : formatFine(flops / 1e12)}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

/** Where the time of a step of prefill and of one of decode goes. */
export function ProfileView({ profile }: { profile: ModelProfile }) {
  return (
    <section className="bench__report" aria-labelledby="profile-title" data-testid="bench-profile-result">
      <h2 id="profile-title">Profile</h2>
      <p className="muted small" data-testid="bench-profile-hint">
        {hint(profile)} This device reads memory at {formatRate(profile.readBytesPerSecond / 1e9)} GB/s, which limits operations that read
        weights.
      </p>
      {profile.steps.map((step) => (
        <StepTable key={step.phase} step={step} limit={profile.readBytesPerSecond} />
      ))}
    </section>
  );
}
