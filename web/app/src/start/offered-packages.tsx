import type { StoredPackage } from 'haikuq';
import { formatBytes, formatParameters, formatRate } from '../../../shared/format.ts';
import { samePackage, type OfferedPackage } from '../../../shared/packages.ts';
import type { Choice } from './choice.ts';

export interface OfferedPackagesProps {
  /** `null` while the server is asked. */
  packages: OfferedPackage[] | null;
  stored: StoredPackage[];
  onChoose: (choice: Choice) => void;
}

function facts({ recipe, bitsPerWeight, parameters, weightBytes }: OfferedPackage): string[] {
  return [
    parameters === undefined ? '' : `${formatParameters(parameters)} parameters`,
    recipe === undefined ? '' : recipe + (bitsPerWeight === undefined ? '' : `, ${formatRate(bitsPerWeight)} bits a weight`),
    weightBytes === undefined ? '' : formatBytes(weightBytes),
  ].filter((fact) => fact !== '');
}

/** What the server offers; nothing on hosts without a list. */
export function OfferedPackages({ packages, stored, onChoose }: OfferedPackagesProps) {
  if (!packages?.length) return null;
  return (
    <section className="start__section" aria-labelledby="offered-packages">
      <h2 id="offered-packages">Packages on this server</h2>
      <ul className="packages" data-testid="package-list">
        {packages.map((offered) => (
          <li key={offered.url}>
            <button
              type="button"
              className="package"
              data-testid="package"
              onClick={() => onChoose({ name: offered.name, location: offered.url })}
            >
              <span className="package__name">{offered.name}</span>
              {stored.some(({ url, complete }) => complete && samePackage(url, offered.url)) && (
                <span className="chip">on this device</span>
              )}
              <span className="package__facts">{facts(offered).join(' · ')}</span>
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
