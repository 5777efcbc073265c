import type { AdapterInfo, MemoryUse, ModelInfo } from 'haikuq';
import { formatBytes, formatCount, formatParameters, formatRate } from '../../../shared/format.ts';

export interface StatusPanelProps {
  info: ModelInfo;
  memory: MemoryUse | null;
  context: number | null;
}

const deviceOf = ({ description, device, vendor, architecture }: AdapterInfo): string =>
  description || [vendor, architecture, device].filter((part) => part !== '').join(' ') || 'not named by the browser';

const abilitiesOf = ({ f16, subgroups, software }: AdapterInfo): string =>
  [
    f16 ? 'f16' : 'no f16',
    subgroups === null ? 'no subgroups' : `subgroups of ${subgroups[0] === subgroups[1] ? subgroups[0] : subgroups.join(' to ')}`,
    ...(software ? ['in software'] : []),
  ].join(', ');

function Row({ name, value }: { name: string; value: string }) {
  return (
    <div className="facts__row">
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

/** What the model is, where it runs and what it takes. */
export function StatusPanel({ info, memory, context }: StatusPanelProps) {
  const { weights, cache, scratch, wasm } = memory ?? { weights: 0, cache: 0, scratch: 0, wasm: 0 };
  return (
    <section className="panel" aria-labelledby="status-title" data-testid="status-panel">
      <h2 id="status-title">Status</h2>
      <dl className="facts">
        <Row name="Model" value={`${info.name}, ${formatParameters(info.parameters)} parameters`} />
        <Row name="Recipe" value={`${info.recipe}, ${formatRate(info.bitsPerWeight)} bits a weight`} />
        <Row name="Device" value={deviceOf(info.adapter)} />
        <Row name="Abilities" value={abilitiesOf(info.adapter)} />
        <div className="facts__row facts__row--meter">
          <dt id="context-use">Context</dt>
          <dd>
            {formatCount(context ?? 0)} of {formatCount(info.contextSize)} tokens
            <meter aria-labelledby="context-use" min={0} max={info.contextSize} high={info.contextSize * 0.8} value={context ?? 0} />
          </dd>
        </div>
      </dl>
      {memory && (
        <>
          <h3>Memory</h3>
          <dl className="facts" data-testid="memory">
            <Row name="Weights" value={formatBytes(weights)} />
            <Row name="Key/value cache" value={formatBytes(cache)} />
            <Row name="Scratch" value={formatBytes(scratch)} />
            <Row name="Graphics memory" value={formatBytes(weights + cache + scratch)} />
            <Row name="WebAssembly" value={formatBytes(wasm)} />
          </dl>
        </>
      )}
      <p className="small muted">haikuq {info.version}</p>
    </section>
  );
}
