"""A CycloneDX 1.6 list of what is in a container image: crates of a Cargo.lock, and Debian's packages that are installed.

    python3 scripts/image_sbom.py Cargo.lock >image.cdx.json

It needs nothing but Python: the Containerfile runs it within the image.
"""

import json
import re
import subprocess
import sys
from pathlib import Path


def crates(lock):
    for block in lock.read_text().split("[[package]]")[1:]:
        field = dict(re.findall(r'^(name|version|source|checksum) = "(.*)"$', block, re.MULTILINE))
        component = {
            "type": "library",
            "bom-ref": f"pkg:cargo/{field['name']}@{field['version']}",
            "name": field["name"],
            "version": field["version"],
            "purl": f"pkg:cargo/{field['name']}@{field['version']}",
        }
        if "checksum" in field:
            component["hashes"] = [{"alg": "SHA-256", "content": field["checksum"]}]
        yield component


def debian():
    form = "${db:Status-Abbrev}\t${Package}\t${Version}\t${Architecture}\n"
    try:
        listed = subprocess.run(["dpkg-query", "-W", "-f", form], check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        return
    for line in listed.splitlines():
        status, name, version, architecture = line.split("\t")
        if not status.startswith("ii"):
            continue
        purl = f"pkg:deb/debian/{name}@{version.replace(':', '%3A').replace('+', '%2B')}?arch={architecture}"
        yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main(lock):
    components = {c["bom-ref"]: c for c in [*crates(Path(lock)), *debian()]}
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": "image", "name": "haikuq"}},
        "components": list(components.values()),
    }
    json.dump(bom, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main(sys.argv[1])
