import '../../shared/theme.css';
import './validate.css';
import { failureOf } from '../../shared/advice.ts';
import { formatBytes, formatCount, formatRate } from '../../shared/format.ts';
import { openRuntime } from '../../shared/runtime.ts';
import { connect } from './protocol.ts';
import { adapterName, workLoop } from './work-loop.ts';

const state = document.getElementById('state')!;
const progress = document.getElementById('progress') as HTMLProgressElement;
const facts = document.getElementById('facts')!;

/** `data-state` is for scripts: `working`, `passed`, `below-thresholds` or `failed`. */
function show(text: string, name: 'working' | 'passed' | 'below-thresholds' | 'failed'): void {
  state.textContent = text;
  state.dataset['state'] = name;
}

function fact(name: string, value: string): void {
  const term = document.createElement('dt');
  const description = document.createElement('dd');
  term.textContent = name;
  description.textContent = value;
  facts.append(term, description);
}

async function validate(): Promise<void> {
  const token = new URLSearchParams(location.search).get('token');
  if (token === null) {
    show('This address lacks its token: open the one that haikuq validate --browser prints.', 'failed');
    return;
  }
  const verdict = await workLoop(connect(location.origin, token), await openRuntime(), `${location.origin}/`, {
    onLoad({ bytes, totalBytes }) {
      progress.hidden = false;
      progress.max = totalBytes || 1;
      progress.value = bytes;
      show(`Loading: ${formatBytes(bytes)} of ${formatBytes(totalBytes)}`, 'working');
    },
    onModel({ info }) {
      progress.hidden = true;
      fact('Package', `${info.name}: ${info.recipe}, ${formatRate(info.bitsPerWeight)} bits a weight`);
      fact('Device', adapterName(info.adapter));
      show('Waiting for work…', 'working');
    },
    onWork(work, done) {
      const doing = work.kind === 'score' ? `scoring ${formatCount(work.ids.length)} tokens` : `writing ${formatCount(work.maxNew)} tokens`;
      show(`${formatCount(done)} done; ${doing}`, 'working');
    },
  });
  show(`${verdict.passed ? 'Passed' : 'Below the thresholds'}. ${verdict.summary}`, verdict.passed ? 'passed' : 'below-thresholds');
}

validate().catch((error: unknown) => {
  const { code, message } = failureOf(error);
  progress.hidden = true;
  show(`Failed (${code}): ${message}`, 'failed');
});
