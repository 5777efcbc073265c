import { useCallback, useEffect, useRef, useState } from 'react';
import type { DeviceLostEvent, LoadProgress, Model } from 'haikuq';
import { failureOf, type Failure } from '../../shared/advice.ts';
import { ChatScreen } from './chat/chat-screen.tsx';
import { KeptConversations } from './chat/kept-conversations.tsx';
import { createSession, type Session } from './chat/session.ts';
import type { Conversation } from './data/conversation.ts';
import { conversationStore } from './data/database.ts';
import { useKept } from './data/kept.ts';
import { parseSettings } from './data/settings.ts';
import { useAppUpdate } from './pwa.ts';
import { fetchPackageIndex } from '../../shared/packages.ts';
import type { Runtime } from '../../shared/runtime.ts';
import { rememberChoice, type Choice } from './start/choice.ts';
import { holdsFiles } from './start/dropped.ts';
import { linkedPackage } from './start/link.ts';
import { LoadingScreen } from './start/loading-screen.tsx';
import { StartScreen } from './start/start-screen.tsx';

/** Where the user is. A failed load leads back to the start, with what was chosen at hand for another try. */
type Place =
  | { at: 'start'; failure?: Failure; failed?: Choice }
  | { at: 'loading'; choice: Choice; progress: LoadProgress | null; controller: AbortController }
  | { at: 'chat'; choice: Choice; model: Model; session: Session };

const store = conversationStore();

export function App({ runtime }: { runtime: Runtime }) {
  const [link] = useState(() => linkedPackage(location.href));
  const [place, setPlace] = useState<Place>(() => (link?.to === 'refuse' ? { at: 'start', failure: link.failure } : { at: 'start' }));
  const [device, setDevice] = useState<DeviceLostEvent | null>(null);
  const [updateDismissed, setUpdateDismissed] = useState(false);
  const update = useAppUpdate();
  const [settings, setSettings] = useKept('settings', parseSettings);
  const currentSettings = useRef(settings);
  useEffect(() => void (currentSettings.current = settings), [settings]);
  /** The conversation that was open when the last model was put away: the next one goes on with it. */
  const lastConversation = useRef<Conversation | undefined>(undefined);
  /** The title of the one that the user chose to go on with, before there is a model. */
  const [next, setNext] = useState<string>();
  const [address, setAddress] = useState(link?.to === 'ask' ? link.address : '');

  const open = useCallback(
    async (choice: Choice) => {
      const controller = new AbortController();
      setDevice(null);
      setPlace({ at: 'loading', choice, progress: null, controller });
      const ofThisLoad = (change: (place: Extract<Place, { at: 'loading' }>) => Place) =>
        setPlace((place) => (place.at === 'loading' && place.controller === controller ? change(place) : place));
      try {
        const served = await fetchPackageIndex(document.baseURI);
        const model = await runtime.load(choice.location, {
          ...served.load,
          ...(choice.cache ? { cache: choice.cache } : {}),
          signal: controller.signal,
          onProgress: (progress) => ofThisLoad((place) => ({ ...place, progress })),
          onDeviceLost: setDevice,
        });
        if (controller.signal.aborted) {
          await model.dispose();
          return;
        }
        const last = lastConversation.current;
        // The kept one may be newer: an answer that was being written is kept when it has ended.
        const conversation = last && ((await store.get(last.id).catch(() => undefined)) ?? last);
        const session = createSession({ model, store, settings: () => currentSettings.current, conversation });
        setPlace({ at: 'chat', choice, model, session });
        // A package is usable all the same where it cannot be remembered.
        await rememberChoice(choice).catch(() => undefined);
      } catch (error) {
        const failure = failureOf(error);
        ofThisLoad(() => (failure.code === 'aborted' ? { at: 'start' } : { at: 'start', failure, failed: choice }));
      }
    },
    [runtime],
  );

  const cancel = (controller: AbortController) => {
    controller.abort();
    setPlace({ at: 'start' });
  };

  const putAway = (model: Model, session: Session) => {
    lastConversation.current = session.getState().conversation;
    setNext(undefined);
    session.close();
    // A worker whose device is lost may fail to say goodbye; it ends all the same.
    model.dispose().catch(() => undefined);
    setDevice(null);
  };

  const followedLink = useRef(false);
  useEffect(() => {
    if (link?.to !== 'open' || followedLink.current) return;
    followedLink.current = true;
    void open(link.choice);
  }, [link, open]);

  useEffect(() => {
    // A folder that misses its target would otherwise replace the page, and the conversation with it.
    const ignore = (event: DragEvent) => {
      if (holdsFiles(event.dataTransfer)) event.preventDefault();
    };
    addEventListener('dragover', ignore);
    addEventListener('drop', ignore);
    return () => {
      removeEventListener('dragover', ignore);
      removeEventListener('drop', ignore);
    };
  }, []);

  const conversations = (
    <KeptConversations
      store={store}
      next={next}
      onGoOn={(conversation) => {
        lastConversation.current = conversation;
        setNext(conversation.title);
      }}
    />
  );

  return (
    <>
      {update && !updateDismissed && (
        <div className="banner" role="status">
          <span>A newer version of this app is ready.</span>
          <button type="button" className="button button--small button--primary" onClick={update}>
            Reload
          </button>
          <button type="button" className="button button--small" onClick={() => setUpdateDismissed(true)}>
            Later
          </button>
        </div>
      )}
      {place.at === 'start' && (
        <StartScreen
          runtime={runtime}
          failure={place.failure}
          linked={link?.to === 'ask' ? link.address : undefined}
          onChoose={(choice) => void open(choice)}
          onRetry={place.failed && (() => void open(place.failed!))}
          onRetryUnstored={
            place.failed && place.failure?.code === 'quota' ? () => void open({ ...place.failed!, cache: 'none' }) : undefined
          }
          address={address}
          onAddress={setAddress}
        >
          {conversations}
        </StartScreen>
      )}
      {place.at === 'loading' && (
        <LoadingScreen name={place.choice.name} progress={place.progress} onCancel={() => cancel(place.controller)}>
          {conversations}
        </LoadingScreen>
      )}
      {place.at === 'chat' && (
        <ChatScreen
          model={place.model}
          session={place.session}
          store={store}
          settings={settings}
          onSettings={setSettings}
          device={device}
          onChangePackage={() => {
            putAway(place.model, place.session);
            setPlace({ at: 'start' });
          }}
          onReload={() => {
            putAway(place.model, place.session);
            void open(place.choice);
          }}
        />
      )}
    </>
  );
}
