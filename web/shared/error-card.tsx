import type { ReactNode } from 'react';
import { adviceFor, type Failure } from './advice.ts';

/** An error by its code: what happened, what to do, and the exact words for a report. */
export function ErrorCard({ failure, children }: { failure: Failure; children?: ReactNode }) {
  const { title, steps } = adviceFor(failure, globalThis.isSecureContext);
  return (
    <div className="error-card" role="alert" data-testid="error" data-code={failure.code}>
      <p className="error-card__title">{title}</p>
      {steps.length === 1 && <p>{steps[0]}</p>}
      {steps.length > 1 && (
        <ul>
          {steps.map((step) => (
            <li key={step}>{step}</li>
          ))}
        </ul>
      )}
      <p className="error-card__words">
        <code>{failure.code}</code> {failure.message}
      </p>
      {children && <div className="error-card__actions">{children}</div>}
    </div>
  );
}
