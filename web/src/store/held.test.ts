import { describe, expect, it, vi } from 'vitest';
import { hex, sha256, someBytes } from '../testing/fake-package.js';
import { hasherHere } from './hash.js';
import { heldFiles, holder, MAX_HELD_BYTES, type ReadWhole } from './held.js';
import type { PackageFile } from './manifest.js';
import { stageClock } from './stages.js';

const contents = [9000, 12000, 5000, 12000, 7000, 1].map((length, seed) => someBytes(length, seed));
const files: PackageFile[] = await Promise.all(
  contents.map(async (bytes, i) => ({ name: `s${i}`, bytes: bytes.length, sha256: await sha256(bytes) })),
);

const tools = { stages: stageClock(), hasher: hasherHere };
const HELD = heldFiles(hasherHere);

/** Counts what is read, and the memories that are used. */
function reading() {
  const read: string[] = [];
  const memories = new Set<ArrayBuffer>();
  const whole: ReadWhole = async (file, memory) => {
    read.push(file.name);
    memories.add(memory.buffer);
    memory.set(contents[files.indexOf(file)] as Uint8Array);
    return memory;
  };
  return { read, memories, whole };
}

describe('holder', () => {
  it('gives each file with the hash of its bytes, reads it once, and uses few memories again and again', async () => {
    const { read, memories, whole } = reading();
    const hold = holder(files, whole, tools);
    for (const [i, file] of files.entries()) {
      const held = await hold(file);
      expect(held?.bytes).toEqual(contents[i]);
      expect(hex(held?.sha256 as Uint8Array)).toBe(file.sha256);
      held?.release();
    }
    expect(read).toEqual(files.map(({ name }) => name));
    expect(memories.size).toBe(HELD);
  });

  it('reads the next files while one is used, and no more of them', async () => {
    const { read, whole } = reading();
    const hold = holder(files, whole, tools);
    await hold(files[0] as PackageFile);
    await vi.waitFor(() => expect(read).toEqual(['s0', 's1', 's2']));
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(read).toHaveLength(HELD);
  });

  it('reads a file anew that is asked for again, within the same memory', async () => {
    const { read, memories, whole } = reading();
    const hold = holder(files, whole, tools);
    (await hold(files[0] as PackageFile))?.release();
    const again = await hold(files[0] as PackageFile);
    expect(again?.bytes).toEqual(contents[0]);
    await vi.waitFor(() => expect(read.sort()).toEqual(['s0', 's0', 's1', 's2']));
    expect(memories.size).toBe(HELD);
  });

  it('says what went wrong to who asks for the file, and not before', async () => {
    const { whole } = reading();
    const hold = holder(
      files,
      async (file, memory) => (file.name === 's1' ? Promise.reject(new Error('no s1')) : whole(file, memory)),
      tools,
    );
    expect((await hold(files[0] as PackageFile))?.bytes).toEqual(contents[0]);
    await expect(hold(files[1] as PackageFile)).rejects.toThrow('no s1');
  });

  it('leaves large files, other files and pages’ own threads to reading in pieces', async () => {
    const { read, whole } = reading();
    const large = { name: 'large', bytes: MAX_HELD_BYTES + 1, sha256: 'f'.repeat(64) };
    const hold = holder([large, ...files], whole, tools);
    expect(await hold(large)).toBeUndefined();
    expect(await hold({ name: 'other', bytes: 1, sha256: 'f'.repeat(64) })).toBeUndefined();
    vi.stubGlobal('document', {});
    expect(await holder(files, whole, tools)(files[0] as PackageFile)).toBeUndefined();
    vi.unstubAllGlobals();
    expect(read).toEqual([]);
  });

  it('uploads from its own memory', async () => {
    const { whole } = reading();
    const held = await holder(files, whole, tools)(files[0] as PackageFile);
    const writeBuffer = vi.fn();
    held?.upload({ writeBuffer } as unknown as GPUQueue, 'buffer' as unknown as GPUBuffer, 512, 4096, 9000);
    expect(writeBuffer).toHaveBeenCalledExactlyOnceWith('buffer', 512, held?.bytes, 4096, 4904);
  });
});

describe('stageClock', () => {
  it('counts the time in which a stage was at work, once where it was so several times over', async () => {
    let now = 0;
    const clock = stageClock(() => now);
    const ends: (() => void)[] = [];
    const work = () => clock.time('hash', () => new Promise<void>((resolve) => ends.push(resolve)));
    const first = work();
    now = 10;
    const second = work();
    now = 30;
    ends[0]?.();
    await first;
    now = 35;
    ends[1]?.();
    await second;
    now = 100;
    clock.add('hash', 7);
    clock.timeNow('upload', () => (now = 104));
    expect(clock.stages()).toMatchObject({ hash: { bytes: 7, ms: 35 }, upload: { bytes: 0, ms: 4 }, fetch: { bytes: 0, ms: 0 } });
  });
});
