import { HaikuqError, type Model } from 'haikuq';
import { expect, it, vi } from 'vitest';
import { createFakeModel } from '../../shared/dev/fake-model.ts';
import type { Server, Work } from './protocol.ts';
import { workLoop } from './work-loop.ts';

const done: Work = { kind: 'done', passed: true, summary: 'top-1 100 %' };
const refused = (status: number) => new HaikuqError('network', `status ${status}`, { status });

/** A server that hands out `work`, then says that it is done, and notes what it is told. */
function fakeServer(...work: (Work | null)[]) {
  const told: unknown[][] = [];
  const tell =
    (what: string) =>
    async (...args: unknown[]): Promise<void> => {
      told.push([what, ...args]);
    };
  const server: Server = {
    job: async () => ({ package: 'packages/haiku%207m/', kvCache: 'f32', numerics: 'exact' }),
    next: async () => (work.length > 0 ? work.shift()! : done),
    hello: tell('hello'),
    rows: async (id, first, logits) => void told.push(['rows', id, first, logits.length / 16, logits[0]]),
    finish: tell('finish'),
    greedy: async (id, ids) => void told.push(['greedy', id, Array.from(ids)]),
    error: tell('error'),
  };
  return { server, told };
}

const events = { onLoad: () => undefined, onModel: () => undefined, onWork: () => undefined };

function loop(server: Server, model: Model = createFakeModel()) {
  const load = vi.fn(async () => model);
  return { load, verdict: workLoop(server, { load }, 'http://127.0.0.1:4173/', events) };
}

it('loads the package of the job from the server, not from what is stored', async () => {
  const { server, told } = fakeServer();
  const { load, verdict } = loop(server);
  expect(await verdict).toEqual({ passed: true, summary: 'top-1 100 %' });
  expect(load).toHaveBeenCalledExactlyOnceWith(
    new URL('http://127.0.0.1:4173/packages/haiku%207m/'),
    expect.objectContaining({ kvCache: 'f32', numerics: 'exact', cache: 'none' }),
  );
  expect(told[0]?.[1]).toMatchObject({ package: 'packages/haiku%207m/', adapter: expect.stringContaining('stand-in') as string });
});

it('scores windows and continues prompts, and asks again where there is no work yet', async () => {
  const { server, told } = fakeServer({ kind: 'score', id: 1, ids: [5, 6, 7, 8, 9, 10] }, null, {
    kind: 'greedy',
    id: 2,
    prompt: [1],
    maxNew: 3,
  });
  await loop(server).verdict;
  expect(told.slice(1)).toEqual([
    ['rows', 1, 0, 4, 0],
    ['rows', 1, 4, 2, 64],
    ['finish', 1],
    ['greedy', 2, [0, 1, 2]],
  ]);
});

it('keeps the rows of one window at most: the next begins when all are sent', async () => {
  const { server, told } = fakeServer({ kind: 'score', id: 1, ids: [5, 6, 7, 8, 9, 10] }, { kind: 'score', id: 2, ids: [5] });
  const { rows } = server;
  server.rows = async (...args) => {
    await new Promise((resolve) => setTimeout(resolve, 5));
    await rows(...args);
  };
  const model = createFakeModel();
  const { score } = model;
  model.score = (ids, onRows) => {
    told.push(['score', ids.length]);
    return score(ids, onRows);
  };
  await loop(server, model).verdict;
  expect(told.slice(1).map(([what, id]) => [what, id])).toEqual([
    ['score', 6],
    ['rows', 1],
    ['rows', 1],
    ['finish', 1],
    ['score', 1],
    ['rows', 2],
    ['finish', 2],
  ]);
});

it('frees the model in the end', async () => {
  const model = createFakeModel();
  const dispose = vi.spyOn(model, 'dispose');
  await loop(fakeServer().server, model).verdict;
  expect(dispose).toHaveBeenCalledOnce();
});

it('tells the server what is wrong with the model', async () => {
  const { server, told } = fakeServer({ kind: 'score', id: 1, ids: [1] });
  const model = createFakeModel();
  model.score = () => Promise.reject(new HaikuqError('device-lost', 'lost twice'));
  await expect(loop(server, model).verdict).rejects.toThrow('lost twice');
  expect(told.at(-1)).toEqual(['error', { code: 'device-lost', message: 'lost twice' }]);
});

it('tells the server that a package cannot be loaded', async () => {
  const { server, told } = fakeServer();
  const load = () => Promise.reject(new HaikuqError('webgpu-unavailable', 'no adapter'));
  await expect(workLoop(server, { load }, 'http://127.0.0.1:4173/', events)).rejects.toThrow('no adapter');
  expect(told).toEqual([['error', { code: 'webgpu-unavailable', message: 'no adapter' }]]);
});

it('goes on with other work where the server has no use for an answer any more', async () => {
  const { server, told } = fakeServer({ kind: 'greedy', id: 1, prompt: [1], maxNew: 1 }, { kind: 'greedy', id: 2, prompt: [1], maxNew: 1 });
  const accept = server.greedy;
  server.greedy = (id, ids) => (id === 1 ? Promise.reject(refused(409)) : accept(id, ids));
  await loop(server).verdict;
  expect(told.slice(1)).toEqual([['greedy', 2, [0]]]);
});

it('ends where the server refuses for another reason, or is gone', async () => {
  const { server, told } = fakeServer({ kind: 'score', id: 1, ids: [1, 2] });
  server.rows = () => Promise.reject(refused(400));
  await expect(loop(server).verdict).rejects.toThrow('status 400');
  expect(told.map(([what]) => what)).not.toContain('finish');
});
