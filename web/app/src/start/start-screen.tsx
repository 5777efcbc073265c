import { useEffect, useRef, useState, type DragEvent, type FormEvent, type ReactNode } from 'react';
import { fetchPackageIndex, packageUrl, type OfferedPackage } from '../../../shared/packages.ts';
import { failureOf, type Failure } from '../../../shared/advice.ts';
import type { Runtime } from '../../../shared/runtime.ts';
import { ErrorCard } from '../../../shared/error-card.tsx';
import { Icon, Mark } from '../ui/icon.tsx';
import { ThemeButton } from '../ui/theme-button.tsx';
import { choiceOfUrl, lastChoice, reopen, type Choice } from './choice.ts';
import { choiceOfDrop, choiceOfFiles, holdsFiles } from './dropped.ts';
import { OfferedPackages } from './offered-packages.tsx';
import { StoredPackages } from './stored-packages.tsx';
import { useStorage } from './use-storage.ts';
import { useWebGpu } from './use-webgpu.ts';

export interface StartScreenProps {
  runtime: Runtime;
  failure: Failure | undefined;
  /** The package of another site that a link led here for: it is loaded if the user says so. */
  linked: string | undefined;
  onChoose: (choice: Choice) => void;
  /** Loads again what failed. */
  onRetry: (() => void) | undefined;
  /** The same without keeping it on this device, where it did not fit. */
  onRetryUnstored: (() => void) | undefined;
  /** What is typed into the field: it outlives a load that fails. */
  address: string;
  onAddress: (address: string) => void;
  children?: ReactNode;
}

export function StartScreen(props: StartScreenProps) {
  const { runtime, failure, linked, onChoose, onRetry, onRetryUnstored, address, onAddress, children } = props;
  const [offered, setOffered] = useState<OfferedPackage[] | null>(null);
  const [last] = useState(lastChoice);
  const [problem, setProblem] = useState<string | null>(null);
  const [dragged, setDragged] = useState(false);
  const files = useRef<HTMLInputElement>(null);
  const storage = useStorage(runtime);

  useEffect(() => {
    void fetchPackageIndex(document.baseURI).then(({ packages }) => setOffered(packages));
  }, []);

  const missing = useWebGpu();
  const shown = failure ?? missing;

  /** Loads what a picker or a drop gave, and says what went wrong with it. */
  const choose = async (choosing: Promise<Choice | null>, nothing: string) => {
    setProblem(null);
    try {
      const choice = await choosing;
      if (choice) onChoose(choice);
      else setProblem(nothing);
    } catch (error) {
      // Closing the picker is no error.
      if ((error as Error).name !== 'AbortError') setProblem(failureOf(error).message);
    }
  };

  const openAddress = (event: FormEvent) => {
    event.preventDefault();
    setProblem(null);
    try {
      onChoose(choiceOfUrl(packageUrl(address.trim(), document.baseURI)));
    } catch (error) {
      setProblem((error as Error).message);
    }
  };

  const pickFolder = () => {
    if ('showDirectoryPicker' in window) {
      const picked = window.showDirectoryPicker({ id: 'package' }).then((folder) => ({ name: folder.name, location: folder }));
      void choose(picked, '');
    } else {
      files.current?.click();
    }
  };

  const drop = (event: DragEvent) => {
    event.preventDefault();
    setDragged(false);
    void choose(choiceOfDrop(event.dataTransfer), 'Nothing that was dropped is a file or a folder');
  };

  return (
    <main
      className="start"
      data-dragged={dragged || undefined}
      onDragOver={(event) => setDragged(holdsFiles(event.dataTransfer))}
      onDragLeave={(event) => {
        if (!event.currentTarget.contains(event.relatedTarget as Node | null)) setDragged(false);
      }}
      onDrop={drop}
    >
      <header className="start__head">
        <div className="start__corner">
          <ThemeButton />
        </div>
        <Mark />
        <h1>haikuq</h1>
        <p className="muted">
          A language model in this browser. What you write stays on this device; after the first visit it works offline.
        </p>
      </header>

      {shown && (
        <ErrorCard failure={shown}>
          {onRetry && (
            <button type="button" className="button" onClick={onRetry}>
              Try again
            </button>
          )}
          {onRetryUnstored && (
            <button type="button" className="button" data-testid="without-storing" onClick={onRetryUnstored}>
              Go on without storing
            </button>
          )}
        </ErrorCard>
      )}

      {last && (
        <button
          type="button"
          className="button button--primary start__last"
          data-testid="open-last"
          // biome-ignore lint/a11y/noAutofocus: going on with the last package is what most come for
          autoFocus
          onClick={() => void choose(reopen(last), `The folder ${last.name} cannot be opened any more; choose it again`)}
        >
          Go on with {last.name}
        </button>
      )}

      <OfferedPackages packages={offered} stored={storage.stored} onChoose={onChoose} />

      <section className="start__section" aria-labelledby="other-packages">
        <h2 id="other-packages">{offered?.length ? 'Another package' : 'Choose a package'}</h2>
        {/* With stored ones there is a way on, and the list may only be out of reach. */}
        {offered?.length === 0 && storage.stored.length === 0 && (
          <p className="small muted" data-testid="no-packages">
            This site offers no packages of its own: it has no list of them at packages/index.json. Whoever runs it can have app, packages
            and list written by <code>haikuq site</code>.
          </p>
        )}
        <form className="start__address" onSubmit={openAddress}>
          <label className="visually-hidden" htmlFor="address">
            Address of a package
          </label>
          <input
            id="address"
            className="field"
            data-testid="package-url"
            inputMode="url"
            autoCapitalize="none"
            autoCorrect="off"
            spellCheck={false}
            placeholder="Address of a package, such as packages/my-model/"
            required
            value={address}
            onChange={(event) => onAddress(event.target.value)}
          />
          <button type="submit" className="button">
            Load
          </button>
        </form>
        {linked !== undefined && (
          <p className="small" data-testid="linked-package">
            The link names a package on {new URL(linked).origin}. Choose Load to fetch it from there.
          </p>
        )}
        <div className="drop">
          <button type="button" className="button" onClick={pickFolder}>
            <Icon name="folder" /> Choose a folder…
          </button>
          <span className="muted small">or drop a package’s folder or files here</span>
          <input
            ref={files}
            type="file"
            hidden
            multiple
            data-testid="package-files"
            aria-label="Folder of a package"
            // React passes on what it does not know as an attribute.
            {...{ webkitdirectory: '' }}
            onChange={(event) => void choose(Promise.resolve(choiceOfFiles([...(event.target.files ?? [])])), 'The folder is empty')}
          />
        </div>
        {problem && (
          <p className="problem" role="alert">
            {problem}
          </p>
        )}
      </section>

      <StoredPackages storage={storage} onChoose={onChoose} />

      {children}
    </main>
  );
}
