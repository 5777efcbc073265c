import { useEffect, useRef, type ReactNode } from 'react';
import type { LoadProgress } from 'haikuq';
import { describeProgress } from '../load-progress.ts';
import { Mark } from '../ui/icon.tsx';

export interface LoadingScreenProps {
  name: string;
  progress: LoadProgress | null;
  onCancel: () => void;
  children?: ReactNode;
}

export function LoadingScreen({ name, progress, onCancel, children }: LoadingScreenProps) {
  const cancel = useRef<HTMLButtonElement>(null);
  useEffect(() => cancel.current?.focus(), []);
  const { doing, amount, rate } = describeProgress(progress);
  const known = progress !== null && progress.totalBytes > 0;
  return (
    <main className="start start--loading" aria-busy="true">
      <Mark />
      <h1>Loading {name}</h1>
      <div className="load" data-testid="load-progress" data-phase={progress?.phase ?? 'manifest'}>
        {known ? (
          <progress aria-label={`Loading ${name}`} max={progress.totalBytes} value={progress.bytes} />
        ) : (
          <progress aria-label={`Loading ${name}`} />
        )}
        <p className="load__line">
          {/* Announced when the kind of work changes, not with every byte. */}
          <span role="status">{doing}</span>
          <span>{amount}</span>
        </p>
        <p className="load__line muted">{rate || '\u00a0'}</p>
      </div>
      <button ref={cancel} type="button" className="button" onClick={onCancel}>
        Cancel
      </button>
      {children}
    </main>
  );
}
