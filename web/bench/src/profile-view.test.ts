// @vitest-environment happy-dom
import type { ModelProfile } from 'haikuq';
import { createElement } from 'react';
import { renderToStaticMarkup } from 'react-dom/server';
import { expect, it } from 'vitest';
import { createFakeModel } from '../../shared/dev/fake-model.ts';
import { ProfileView } from './profile-view.tsx';

async function shown(change: (profile: ModelProfile) => ModelProfile = (profile) => profile): Promise<HTMLElement> {
  const profile = change(await createFakeModel().profile());
  const page = document.createElement('div');
  page.innerHTML = renderToStaticMarkup(createElement(ProfileView, { profile }));
  return page;
}
const cells = (page: HTMLElement, phase: string): (string | null)[][] =>
  Array.from(page.querySelectorAll(`[data-testid="bench-profile-${phase}"] tbody tr`), (row) =>
    Array.from(row.children, (cell) => cell.textContent),
  );
const hint = (page: HTMLElement) => page.querySelector('[data-testid="bench-profile-hint"]')?.textContent;

it('shows the operations of both steps with their rates and shares of the limit', async () => {
  const page = await shown();
  // 1.4 MB in 0.75 ms, of 40 GB/s.
  expect(cells(page, 'decode')).toEqual([
    ['gate_up', 'matvec', '1536 × 256', '8', '0.75', '93.8', '1.87', '5 %', '0.00747'],
    ['attend', 'attention', '4 heads of 64', '8', '0.5', '62.5', '–', '–', '–'],
  ]);
  expect(cells(page, 'prefill')[0]).toContain('matmul');
  expect(page.textContent).toContain('decode of 1 token at depth 512');
  expect(page.textContent).toContain(
    '1.5 ms on the GPU as one pass; 0.4 ms to encode, 0.1 ms to submit, then 2 ms of waiting; 16 dispatches',
  );
});

it('says where the browser rounds times', async () => {
  expect(hint(await shown())).toContain('rounds the GPU’s timestamps to 0.1 ms');
  expect(hint(await shown())).toContain('--enable-webgpu-developer-features');
  expect(hint(await shown((profile) => ({ ...profile, timestampMs: 0.001 })))).not.toContain('rounds');
});

it('shows the processor’s part where there are no timestamps, and says so', async () => {
  const page = await shown((profile) => ({
    ...profile,
    timestampMs: null,
    steps: profile.steps.map((step) => ({
      ...step,
      gpuMs: null,
      operations: step.operations.map((operation) => ({ ...operation, gpuMs: null })),
    })),
  }));
  expect(hint(page)).toContain('no timestamp-query');
  expect(page.textContent).toContain('0.4 ms to encode');
  expect(page.textContent).not.toContain('on the GPU as one pass');
  expect(cells(page, 'decode')[0]).toEqual(['gate_up', 'matvec', '1536 × 256', '8', '–', '–', '–', '–', '–']);
});
