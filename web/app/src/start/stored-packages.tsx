import { useState } from 'react';
import { formatBytes } from '../../../shared/format.ts';
import { packageName } from '../../../shared/packages.ts';
import { failureOf } from '../../../shared/advice.ts';
import { Icon } from '../ui/icon.tsx';
import { choiceOfUrl, type Choice } from './choice.ts';
import type { PackageStorage } from './use-storage.ts';

/** What is kept on this device: usable without a server, and removable. */
export function StoredPackages({ storage, onChoose }: { storage: PackageStorage; onChoose: (choice: Choice) => void }) {
  const [problem, setProblem] = useState<string | null>(null);
  const { stored, use, remove } = storage;
  if (stored.length === 0) return null;
  return (
    <section className="start__section" aria-labelledby="stored-packages">
      <h2 id="stored-packages">On this device</h2>
      <ul className="stored" data-testid="stored-list">
        {stored.map(({ url, bytes, totalBytes, complete }) => (
          <li key={url} className="stored__item">
            <button type="button" className="stored__open" title={url} onClick={() => onChoose(choiceOfUrl(url))}>
              <span className="package__name">{packageName(url)}</span>
              <span className="package__facts">
                {complete ? formatBytes(bytes) : `${formatBytes(bytes)} of ${formatBytes(totalBytes)}: not complete`}
              </span>
            </button>
            <button
              type="button"
              className="button button--quiet button--icon"
              aria-label={`Remove ${packageName(url)} from this device`}
              title="Remove from this device"
              data-testid="remove-stored"
              onClick={() =>
                remove(url).then(
                  () => setProblem(null),
                  (error: unknown) => setProblem(failureOf(error).message),
                )
              }
            >
              <Icon name="trash" />
            </button>
          </li>
        ))}
      </ul>
      {use && (
        <p className="muted small">
          Packages take {formatBytes(use.packageBytes)}
          {use.usage !== undefined && use.quota !== undefined && (
            <>
              ; this site uses {formatBytes(use.usage)} of the {formatBytes(use.quota)} that the browser allows
            </>
          )}
          .
        </p>
      )}
      {problem && (
        <p className="problem" role="alert">
          {problem}
        </p>
      )}
    </section>
  );
}
