import type { FormEvent } from 'react';
import type { OfferedPackage } from '../../shared/packages.ts';
import type { OptionFields } from './options.ts';

export interface OptionsFormProps {
  packages: OfferedPackage[];
  siteRoot: string;
  address: string;
  fields: OptionFields;
  running: boolean;
  onAddress: (address: string) => void;
  onFields: (fields: OptionFields) => void;
  onSubmit: (event: FormEvent) => void;
  onStop: () => void;
}

const texts: { key: Exclude<keyof OptionFields, keyof typeof choices | 'pins' | 'profile'>; label: string }[] = [
  { key: 'promptLengths', label: 'Prompt lengths, tokens' },
  { key: 'outputLengths', label: 'Output lengths, tokens' },
  { key: 'repeat', label: 'Repetitions' },
  { key: 'warmUp', label: 'Warm-up runs' },
  { key: 'seed', label: 'Seed' },
  { key: 'loads', label: 'Loads, each downloading anew' },
];

const choices = {
  kvCache: { label: 'Key/value cache', values: ['auto', 'f16', 'f32'] },
  numerics: { label: 'Numerics', values: ['auto', 'exact', 'fast'] },
} as const;

export function OptionsForm(props: OptionsFormProps) {
  const { packages, siteRoot, address, fields, running, onAddress, onFields, onSubmit, onStop } = props;
  return (
    <form onSubmit={onSubmit}>
      <fieldset className="bench__fields" disabled={running}>
        <legend className="visually-hidden">What to measure</legend>
        <label className="bench__package">
          Package
          <input
            className="field"
            list="packages"
            data-testid="bench-package"
            required
            spellCheck={false}
            autoCapitalize="none"
            placeholder="Address, such as packages/my-model/"
            value={address}
            onChange={(event) => onAddress(event.target.value)}
          />
          <datalist id="packages">
            {packages.map(({ name, url }) => (
              <option key={url} value={url.startsWith(siteRoot) ? url.slice(siteRoot.length) : url}>
                {name}
              </option>
            ))}
          </datalist>
        </label>
        {texts.map(({ key, label }) => (
          <label key={key}>
            {label}
            <input
              className="field"
              data-testid={`bench-${key}`}
              required
              inputMode={key.endsWith('Lengths') ? 'text' : 'numeric'}
              value={fields[key]}
              onChange={(event) => onFields({ ...fields, [key]: event.target.value })}
            />
          </label>
        ))}
        {(Object.keys(choices) as (keyof typeof choices)[]).map((key) => (
          <label key={key}>
            {choices[key].label}
            <select
              className="field"
              data-testid={`bench-${key}`}
              value={fields[key]}
              onChange={(event) => onFields({ ...fields, [key]: event.target.value })}
            >
              {choices[key].values.map((value) => (
                <option key={value}>{value}</option>
              ))}
            </select>
          </label>
        ))}
        <label>
          Pinned kernels
          <input
            className="field"
            data-testid="bench-pins"
            spellCheck={false}
            autoCapitalize="none"
            placeholder="project=matvec"
            value={fields.pins}
            onChange={(event) => onFields({ ...fields, pins: event.target.value })}
          />
        </label>
        <label className="bench__check">
          <input
            type="checkbox"
            data-testid="bench-profile"
            checked={fields.profile === '1'}
            onChange={(event) => onFields({ ...fields, profile: event.target.checked ? '1' : '0' })}
          />
          Profile: GPU time by operation
        </label>
      </fieldset>
      {running ? (
        <button key="stop" type="button" className="button" data-testid="bench-stop" onClick={onStop}>
          Stop
        </button>
      ) : (
        <button key="run" type="submit" className="button button--primary" data-testid="bench-run">
          Run
        </button>
      )}
    </form>
  );
}
