import { useState } from 'react';
import { formatBytes } from '../../../shared/format.ts';
import { failureOf } from '../advice.ts';
import { Icon } from '../ui/icon.tsx';
import type { Choice } from './choice.ts';
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
        {stored.map(({ url, name, bytes }) => (
          <li key={url} className="stored__item">
            <button type="button" className="stored__open" title={url} onClick={() => onChoose({ name, location: url })}>
              <span className="package__name">{name}</span>
              <span className="package__facts">{formatBytes(bytes)}</span>
            </button>
            <button
              type="button"
              className="button button--quiet button--icon"
              aria-label={`Remove ${name} from this device`}
              title="Remove from this device"
              data-testid="remove-stored"
              onClick={() => remove(url).then(() => setProblem(null), (error: unknown) => setProblem(failureOf(error).message))}
            >
              <Icon name="trash" />
            </button>
          </li>
        ))}
      </ul>
      {use && use.quota > 0 && (
        <p className="muted small">
          This site uses {formatBytes(use.used)} of the {formatBytes(use.quota)} that the browser allows.
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
