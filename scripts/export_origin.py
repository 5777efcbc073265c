"""What `haikuq export --format sbom|statement|oci` writes, by the schemas and programs of those who defined it.

    pip install 'cyclonedx-python-lib[json-validation]' model-signing pyopenssl jsonschema
    python3 scripts/export_origin.py HAIKUQ PACKAGE [MODELPACK]

HAIKUQ is the program, PACKAGE a package, MODELPACK a checkout of github.com/modelpack/model-spec, whose schema/config-schema.json is
taken. Prints one line for each check, and fails at the first that does not hold. docs/interop.md has the output.
"""

import base64
import hashlib
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path


def export(haikuq, package, kind, out, *options):
    subprocess.run([haikuq, "export", package, "--format", kind, "--out", out, *options], check=True, stdout=subprocess.DEVNULL)
    return out


def check_sbom(haikuq, package, folder):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = export(haikuq, package, "sbom", folder / "sbom.json", "--license", "apache-2.0", "--base-model", "org/name").read_text()
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert error is None, error
    bom = json.loads(text)
    for component in bom["components"]:
        digest = hashlib.sha256((package / component["name"]).read_bytes()).hexdigest()
        assert component["hashes"][0]["content"] == digest, component["name"]
    spoilt = text.replace('"CycloneDX"', '"CycloneDY"')
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(spoilt) is not None, "the validator takes anything"
    print(f"sbom: valid CycloneDX 1.6 (strict), {len(bom['components'])} files, {len(text)} bytes;", lib("cyclonedx-python-lib"))


def check_statement(haikuq, package, folder):
    import model_signing
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from model_signing._signing import signing

    payload = json.loads(export(haikuq, package, "statement", folder / "statement.json").read_text())
    # This recomputes the subject from the resources, and refuses other kinds of statements.
    assert signing.dsse_payload_to_manifest(payload) == model_signing.hashing.hash(package), "another manifest"
    # The statement that it signs itself, with a key made here.
    key, public = folder / "key.pem", folder / "public.pem"
    made = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    key.write_bytes(made.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public.write_bytes(made.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    bundle = folder / "package.sig"
    model_signing.signing.Config().use_elliptic_key_signer(private_key=key).sign(package, bundle)
    model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public).verify(package, bundle)
    envelope = json.loads(bundle.read_text())["dsseEnvelope"]
    signed = json.loads(base64.b64decode(envelope["payload"]))
    signed["predicate"]["serialization"]["ignore_paths"].sort()  # a set, in any order
    assert envelope["payloadType"] == "application/vnd.in-toto+json" and signed == payload, "another statement"
    resources = len(payload["predicate"]["resources"])
    print(f"statement: the very one that model_signing signs and verifies, {resources} files;", lib("model-signing"))


def check_oci(haikuq, package, folder, modelpack):
    layout = export(haikuq, package, "oci", folder / "oci", "--license", "apache-2.0", "--base-model", "org/name")
    blob = lambda descriptor: (layout / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]))
    for path in (layout / "blobs/sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    listed = {f["sha256"] for f in json.loads((package / "haikuq.json").read_text())["shards"]}
    weights = [d for d in manifest["layers"] if d["mediaType"] == "application/vnd.cncf.model.weight.v1.raw"]
    assert {d["digest"].removeprefix("sha256:") for d in weights} == listed
    schema = "no schema"
    if modelpack:
        import jsonschema

        schema = json.loads((modelpack / "schema/config-schema.json").read_text())
        validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        validator.validate(json.loads(blob(manifest["config"])))
        assert not validator.is_valid({"descriptor": {}, "config": {"other": 1}, "modelfs": {"type": "layers", "diffIds": ["x"]}})
        schema = "config by ModelPack's schema"
    print(f"oci: {len(manifest['layers'])} layers, shards under the manifest's digests, {schema};", lib("jsonschema"))


def lib(name):
    return f"{name} {version(name)}"


def main(haikuq, package, modelpack=None):
    package = Path(package).resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        check_sbom(haikuq, package, folder)
        check_statement(haikuq, package, folder)
        check_oci(haikuq, package, folder, modelpack and Path(modelpack))


if __name__ == "__main__":
    main(*sys.argv[1:])
