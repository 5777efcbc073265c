import '../../shared/theme.css';
import './styles/start.css';
import './styles/chat.css';
import './styles/panels.css';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { App } from './app.tsx';
import { openRuntime } from '../../shared/runtime.ts';

const runtime = await openRuntime();
createRoot(document.getElementById('root')!).render(
  <StrictMode>
    <App runtime={runtime} />
  </StrictMode>,
);
