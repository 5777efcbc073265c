import { useState } from 'react';
import { defaultSettings, parseField, samplingFields, type SamplingField, type Settings } from '../data/settings.ts';

export interface SettingsPanelProps {
  settings: Settings;
  /** A model without a chat template has no system prompt. */
  canChat: boolean;
  onChange: (settings: Settings) => void;
}

/** Settings count from the next answer on. */
export function SettingsPanel({ settings, canChat, onChange }: SettingsPanelProps) {
  /** Makes the fields anew, with what was typed wrongly gone too. */
  const [resets, setResets] = useState(0);
  const change = (field: SamplingField, value: number | undefined) => {
    const { [field.key]: _, ...others } = settings;
    onChange(value === undefined ? others : { ...others, [field.key]: value });
  };
  return (
    <section className="panel" aria-labelledby="settings-title" data-testid="settings">
      <h2 id="settings-title">Settings</h2>
      {canChat && (
        <div className="setting setting--wide">
          <label htmlFor="setting-system">System prompt</label>
          <textarea
            id="setting-system"
            className="field"
            data-testid="setting-system"
            rows={3}
            placeholder="How the model should behave"
            value={settings.system}
            onChange={(event) => onChange({ ...settings, system: event.target.value })}
          />
        </div>
      )}
      {samplingFields.map((field) => (
        <NumberSetting
          key={`${field.key} ${resets}`}
          field={field}
          value={settings[field.key]}
          onChange={(value) => change(field, value)}
        />
      ))}
      <button
        type="button"
        className="button button--small"
        data-testid="settings-reset"
        onClick={() => {
          onChange({ ...defaultSettings, system: settings.system });
          setResets(resets + 1);
        }}
      >
        Reset to the model’s defaults
      </button>
    </section>
  );
}

interface NumberSettingProps {
  field: SamplingField;
  value: number | undefined;
  onChange: (value: number | undefined) => void;
}

/** A number, or nothing for the model's default. Values out of range are shown as wrong and not used. */
function NumberSetting({ field, value, onChange }: NumberSettingProps) {
  const [typed, setTyped] = useState(value === undefined ? '' : String(value));
  const parsed = parseField(field, typed);
  const problem = typeof parsed === 'string' ? parsed : null;
  const id = `setting-${field.key}`;
  return (
    <div className="setting">
      <label htmlFor={id}>{field.label}</label>
      <input
        id={id}
        className="field"
        data-testid={id}
        type="number"
        inputMode="decimal"
        min={field.min}
        max={field.max}
        step="any"
        placeholder="default"
        aria-invalid={problem !== null}
        aria-describedby={`${id}-help`}
        value={typed}
        onChange={(event) => {
          // A browser hands over nothing for what is no number at all; its own message says so.
          setTyped(event.target.value);
          const next = parseField(field, event.target.value);
          if (typeof next !== 'string') onChange(next);
        }}
      />
      <p id={`${id}-help`} className={problem === null ? 'small muted' : 'small problem'}>
        {problem ?? field.help}
      </p>
    </div>
  );
}
