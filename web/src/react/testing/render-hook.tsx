/** Just enough to run a hook in a component. */

import { act, StrictMode, useEffect } from 'react';
import { createRoot } from 'react-dom/client';
import { onTestFinished } from 'vitest';

export interface RenderedHook<Result, Props> {
  /** What the hook returned in the newest render. */
  readonly current: Result;
  /** Times that it was committed; StrictMode's second calls of the function are not counted. */
  readonly commits: number;
  rerender(props: Props): Promise<void>;
  unmount(): Promise<void>;
}

export async function renderHook<Result, Props>(
  hook: (props: Props) => Result,
  props: Props,
  { strict = false } = {},
): Promise<RenderedHook<Result, Props>> {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  const root = createRoot(document.createElement('div'));
  let current!: Result;
  let commits = 0;

  function Harness({ given }: { given: Props }) {
    const result = hook(given);
    useEffect(() => {
      current = result;
      commits++;
    });
    return null;
  }
  const element = (given: Props) =>
    strict ? (
      <StrictMode>
        <Harness given={given} />
      </StrictMode>
    ) : (
      <Harness given={given} />
    );
  const rerender = (given: Props) => act(async () => root.render(element(given)));
  const unmount = () => act(async () => root.unmount());

  await rerender(props);
  onTestFinished(unmount);
  return {
    get current() {
      return current;
    },
    get commits() {
      return commits;
    },
    rerender,
    unmount,
  };
}
