/** The hooks as an application uses them: `?package=URL`, or `?cloud=ENDPOINT`. */

import { useState } from 'react';
import { createRoot } from 'react-dom/client';
import { anthropicMessages } from 'haikuq/hybrid';
import { useChat, useModel } from 'haikuq/react';

const query = new URLSearchParams(window.location.search);
const location = query.get('package');
const endpoint = query.get('cloud');
const cloud = endpoint === null ? undefined : anthropicMessages({ endpoint, model: 'a-model', maxTokens: 64 });

function Chat() {
  const { model, status, progress, error } = useModel(location);
  const { messages, status: chatStatus, send, stop } = useChat({ backend: cloud, model, options: { temperature: 0, maxTokens: 12 } });
  const [draft, setDraft] = useState('');
  return (
    <main>
      <output data-testid="status">{status}</output>
      <output data-testid="loaded">{progress?.bytes ?? 0}</output>
      <output data-testid="error">{error?.code}</output>
      <output data-testid="chat-status">{chatStatus}</output>
      <ul>
        {messages.map(({ id, role, content }) => (
          <li key={id} data-role={role}>
            {content}
          </li>
        ))}
      </ul>
      <input aria-label="Message" value={draft} onChange={(event) => setDraft(event.target.value)} />
      <button type="button" onClick={() => void send(draft)}>
        Send
      </button>
      <button type="button" onClick={stop}>
        Stop
      </button>
    </main>
  );
}

createRoot(document.getElementById('root')!).render(<Chat />);
