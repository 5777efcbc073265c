import { useEffect, useRef, useState } from 'react';
import type { DeviceLostEvent, Model } from 'haikuq';
import type { ConversationStore } from '../data/database.ts';
import { useKept } from '../data/kept.ts';
import type { Settings } from '../data/settings.ts';
import { Drawer } from '../ui/drawer.tsx';
import { Icon } from '../ui/icon.tsx';
import { ThemeButton } from '../ui/theme-button.tsx';
import { useMediaQuery } from '../ui/use-media-query.ts';
import { Announcer } from './announcer.tsx';
import { Composer } from './composer.tsx';
import { ConversationList } from './conversation-list.tsx';
import { ConversationLog } from './conversation-log.tsx';
import type { Session } from './session.ts';
import { SettingsPanel } from './settings-panel.tsx';
import { StatusPanel } from './status-panel.tsx';
import { useModelUse } from './use-model-use.ts';
import { useSession } from './use-session.ts';

export interface ChatScreenProps {
  model: Model;
  session: Session;
  store: ConversationStore;
  settings: Settings;
  onSettings: (settings: Settings) => void;
  /** The last time that the GPU device was lost. */
  device: DeviceLostEvent | null;
  onChangePackage: () => void;
  onReload: () => void;
}

export function ChatScreen({ model, session, store, settings, onSettings, device, onChangePackage, onReload }: ChatScreenProps) {
  const prompt = useRef<HTMLTextAreaElement>(null);
  const wideForList = useMediaQuery('(min-width: 56rem)');
  const wideForPanels = useMediaQuery('(min-width: 76rem)');
  const [listOpen, setListOpen] = useState(false);
  const [panelsDocked, setPanelsDocked] = useKept('panels', (kept) => kept !== false);
  const [panelsModal, setPanelsModal] = useState(false);
  const storeError = useSession(session, (state) => state.storeError);
  const use = useModelUse(model, session, settings.system);

  // On a touch screen focus would bring up the keyboard over what is to be read.
  const hasFinePointer = useMediaQuery('(pointer: fine)');
  const focusPrompt = () => {
    if (hasFinePointer) prompt.current?.focus();
  };

  useEffect(() => {
    prompt.current?.focus();
  }, []);

  useEffect(() => {
    const stopOnEscape = (event: KeyboardEvent) => {
      if (event.key === 'Escape' && !event.defaultPrevented && !document.querySelector('dialog[open]')) session.stop();
    };
    addEventListener('keydown', stopOnEscape);
    return () => removeEventListener('keydown', stopOnEscape);
  }, [session]);

  const togglePanels = () => (wideForPanels ? setPanelsDocked(!panelsDocked) : setPanelsModal(!panelsModal));
  const panelsOpen = wideForPanels ? panelsDocked : panelsModal;
  const closeList = () => {
    setListOpen(false);
    focusPrompt();
  };

  return (
    <div className="chat">
      {/* biome-ignore lint/a11y/useValidAnchor: a link that skips, with the focus where it leads */}
      <a className="skip-link" href="#prompt" onClick={() => prompt.current?.focus()}>
        Skip to the message field
      </a>
      <Drawer label="Conversations" side="left" docked={wideForList} open={wideForList || listOpen} onClose={() => setListOpen(false)}>
        <ConversationList session={session} store={store} onDone={closeList} />
      </Drawer>

      <main className="chat__main">
        <header className="chat__head">
          {!wideForList && (
            <button
              type="button"
              className="button button--quiet button--icon"
              aria-label="Conversations"
              aria-expanded={listOpen}
              data-testid="open-conversations"
              onClick={() => setListOpen(true)}
            >
              <Icon name="menu" />
            </button>
          )}
          <h1 className="chat__title">
            <span className="chat__model">{model.info.name}</span>
            <span className="chip">{model.info.recipe}</span>
          </h1>
          <button type="button" className="button button--small" data-testid="change-package" onClick={onChangePackage}>
            Change
            <span className="visually-hidden"> the package</span>
          </button>
          <ThemeButton />
          <button
            type="button"
            className="button button--quiet button--icon"
            aria-label="Settings and status"
            title="Settings and status"
            aria-expanded={panelsOpen}
            data-testid="open-settings"
            onClick={togglePanels}
          >
            <Icon name="sliders" />
          </button>
        </header>

        <div role="status" className="chat__notices">
          {device && (
            <p className="notice" data-testid="device-notice">
              {device.recovered
                ? 'The graphics device was lost and is back; the answer goes on.'
                : 'The graphics device was lost. The model is being brought back…'}
            </p>
          )}
          {storeError !== null && (
            <p className="notice">This browser refuses to keep conversations ({storeError}). They are gone when the page is closed.</p>
          )}
        </div>

        <ConversationLog
          session={session}
          canChat={model.info.hasChatTemplate}
          context={use.context}
          onReload={onReload}
          onActed={focusPrompt}
        />
        <Composer
          ref={prompt}
          session={session}
          canChat={model.info.hasChatTemplate}
          context={use.context}
          contextSize={model.info.contextSize}
        />
        <Announcer session={session} />
      </main>

      <Drawer label="Settings and status" side="right" docked={wideForPanels} open={panelsOpen} onClose={() => setPanelsModal(false)}>
        <StatusPanel info={model.info} memory={use.memory} context={use.context} />
        <SettingsPanel settings={settings} canChat={model.info.hasChatTemplate} onChange={onSettings} />
      </Drawer>
    </div>
  );
}
