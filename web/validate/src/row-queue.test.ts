import { expect, it } from 'vitest';
import { rowQueue } from './row-queue.ts';

/** A `send` whose answers come when the test says so. */
function slowSend() {
  const sent: [number, number[]][] = [];
  const answers: { resolve: () => void; reject: (error: Error) => void }[] = [];
  const send = (first: number, logits: Float32Array) => {
    sent.push([first, Array.from(logits)]);
    return new Promise<void>((resolve, reject) => answers.push({ resolve, reject }));
  };
  /** Answers the request that waits, and lets what follows from it happen. */
  const answer = async (error?: Error) => {
    const waiting = answers.shift()!;
    if (error) waiting.reject(error);
    else waiting.resolve();
    await settled();
  };
  return { send, sent, answer };
}

const settled = () => new Promise((resolve) => setTimeout(resolve, 0));
const options = { vocabSize: 2, rowsAtOnce: 8 };

it('sends one block at a time, in order, whatever becomes of the array meanwhile', async () => {
  const { send, sent, answer } = slowSend();
  const queue = rowQueue(send, options);
  const block = Float32Array.of(1, 2);
  queue.push(0, block);
  block.set([3, 4]);
  queue.push(1, block);
  await settled();
  expect(sent).toEqual([[0, [1, 2]]]);
  await answer();
  await answer();
  await queue.drained();
  expect(sent).toEqual([
    [0, [1, 2]],
    [1, [3, 4]],
  ]);
});

it('sends no more rows at once than the server takes', async () => {
  const { send, sent, answer } = slowSend();
  const queue = rowQueue(send, { vocabSize: 2, rowsAtOnce: 2 });
  queue.push(4, Float32Array.of(0, 1, 2, 3, 4, 5));
  await settled();
  await answer();
  await answer();
  await queue.drained();
  expect(sent).toEqual([
    [4, [0, 1, 2, 3]],
    [6, [4, 5]],
  ]);
});

it('sends nothing after a block that could not be sent, and says why', async () => {
  const { send, sent, answer } = slowSend();
  const queue = rowQueue(send, options);
  queue.push(0, Float32Array.of(1, 2));
  queue.push(1, Float32Array.of(3, 4));
  await settled();
  await answer(new Error('gone'));
  await expect(queue.drained()).rejects.toThrow('gone');
  queue.push(2, Float32Array.of(5, 6));
  await expect(queue.drained()).rejects.toThrow('gone');
  expect(sent).toHaveLength(1);
});

it('is drained when nothing was pushed', async () => {
  await expect(rowQueue(slowSend().send, options).drained()).resolves.toBeUndefined();
});
