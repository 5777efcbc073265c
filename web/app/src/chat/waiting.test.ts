// @vitest-environment happy-dom
import { act, createElement } from 'react';
import { createRoot } from 'react-dom/client';
import { afterEach, beforeEach, expect, it, onTestFinished, vi } from 'vitest';
import { WritingMessage } from './assistant-message.tsx';

beforeEach(() => {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  vi.useFakeTimers();
});
afterEach(() => void vi.useRealTimers());

it('says after a second what the model reads, until there is a word', async () => {
  const page = document.createElement('div');
  const root = createRoot(page);
  onTestFinished(() => act(async () => root.unmount()));
  const render = (text: string, tokens: number | null) => act(async () => root.render(createElement(WritingMessage, { text, tokens })));
  const waiting = () => page.querySelector('[data-testid="waiting"]')?.textContent;
  const wait = (ms: number) => act(async () => void vi.advanceTimersByTime(ms));
  await render('', null);
  await wait(900);
  expect(waiting()).toBeUndefined();
  await wait(200);
  expect(waiting()).toBe('Reading the conversation, 1 s so far');
  await render('', 1234);
  await wait(2000);
  expect(waiting()).toBe('Reading 1,234 tokens, 3 s so far');
  await render('A', 1234);
  expect(waiting()).toBeUndefined();
});
