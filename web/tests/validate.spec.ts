/** `npm run validate`: the browser's logits are the native runtime's. */

import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@playwright/test';
import { haikuq } from './support/haikuq.ts';
import { calibrated, checkpoint, site, whole } from './support/packages.ts';

const web = fileURLToPath(new URL('..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'haikuq-golden-'));
const golden = join(folder, 'golden.safetensors');

// What the native runtime says; so the browser is compared with that, not with the checkpoint.
test.beforeAll(async () => {
  const prompts = join(folder, 'prompts.txt');
  writeFileSync(prompts, 'Once upon a time\nThe moon over the quiet lake\nMy dog and I\n');
  const size = ['--windows', '2', '--context', '256', '--max-new', '12'];
  await haikuq('golden', whole.folder, '--text', join(checkpoint, 'evaluation.jsonl'), '--prompts', prompts, '--out', golden, ...size);
});
test.afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Run {
  code: number;
  output: string;
}

function validate(...options: string[]): Promise<Run> {
  return new Promise((resolve) => {
    const program = execFile('npm', ['run', '--silent', 'validate', '--', ...options], { cwd: web }, (_, stdout, stderr) =>
      resolve({ code: program.exitCode ?? -1, output: stdout + stderr }),
    );
  });
}

/** Names of all members, at every depth; of lists, those of the first entry. */
function shapeOf(value: unknown): unknown {
  if (Array.isArray(value)) return value.length > 0 ? [shapeOf(value[0])] : [];
  if (typeof value !== 'object' || value === null) return value === null ? 'null' : typeof value;
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, shapeOf(member)]));
}

test('forced decoding agrees with the native runtime, continuations are the same, and so is the report', async () => {
  const thresholds = ['--golden', golden, '--max-kl', '1e-4', '--min-top1', '99.5'];
  const browser = await validate(whole.folder, ...thresholds, '--site', site, '--report', join(folder, 'browser'));
  expect(browser.code, browser.output).toBe(0);
  await haikuq('validate', whole.folder, ...thresholds, '--prompts', '1', '--report', join(folder, 'native'));

  const measured = report('browser');
  expect(measured.passed).toBe(true);
  expect(measured.summary.positions).toBe(2 * 256);
  expect(measured.summary.mean_kl).toBeLessThanOrEqual(1e-4);
  expect(measured.summary.top1_percent).toBeGreaterThanOrEqual(99.5);
  expect(measured.continuations).toHaveLength(3);
  for (const { first_difference, model_ids, golden_ids } of measured.continuations) {
    expect(first_difference).toBeNull();
    expect(model_ids).toEqual(golden_ids);
  }
  expect(measured.adapter).toMatch(/\(browser: Chrom/);
  const native = report('native');
  // Software adapters always are.
  expect([measured.numerics, native.numerics]).toEqual(['exact', 'exact']);
  expect(shapeOf({ ...measured, adapter: '' })).toEqual(shapeOf({ ...native, adapter: '' }));
});

for (const { recipe, folder: packed, conversion, made } of calibrated) {
  test(`a calibrated ${recipe} package passes the thresholds of the checkpoint’s golden outputs`, async () => {
    test.slow();
    if (!made) await haikuq('convert', checkpoint, '--out', packed, '--force', ...conversion);
    const { code, output } = await validate(
      ...[packed, '--golden', join(checkpoint, 'reference.safetensors'), '--thresholds', join(checkpoint, 'thresholds.toml')],
      ...['--windows', '1', '--prompts', '1', '--site', site, '--report', join(folder, recipe)],
    );
    expect(code, output).toBe(0);
    const measured = report(recipe);
    expect(measured).toMatchObject({ passed: true, package: { recipe }, summary: { positions: 512 } });
    expect(measured.thresholds).toContainEqual(expect.objectContaining({ name: 'max_kl', passed: true }));
    expect(measured.adapter).toMatch(/\(browser: Chrom/);
    expect(measured.continuations).toHaveLength(1);
  });
}

function report(name: string): Report {
  return JSON.parse(readFileSync(join(folder, name, 'report.json'), 'utf8')) as Report;
}

interface Report {
  numerics?: string;
  passed: boolean;
  adapter: string;
  package: { recipe: string };
  thresholds: { name: string; passed: boolean }[];
  summary: { positions: number; mean_kl: number; top1_percent: number };
  continuations: { first_difference: number | null; model_ids: number[]; golden_ids: number[] }[];
}

test('a threshold that is missed ends with exit code 3', async () => {
  // No package is better than itself.
  const { code, output } = await validate(
    ...[whole.folder, '--golden', golden, '--windows', '1', '--prompts', '0'],
    ...['--max-perplexity-increase=-1', '--site', site],
  );
  expect(code, output).toBe(3);
  expect(output).toMatch(/below|failed/i);
});

test('the error names the fault of the command line, with the program’s exit code', async () => {
  expect(await validate(join(folder, 'absent'), '--golden', 'x')).toMatchObject({ code: 1, output: expect.stringContaining('absent') });
  expect(await validate(whole.folder)).toMatchObject({ code: 2, output: expect.stringContaining('--golden') });
});
