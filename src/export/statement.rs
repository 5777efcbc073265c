//! An in-toto statement over the package's files, as OpenSSF model signing 1.0 makes and verifies it: its subject is the model, by the
//! SHA-256 of its files' digests in the order of their names. Signing it is other programs' task.

use super::origin::Origin;
use haikuq_format::manifest::FileEntry;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const PREDICATE: &str = "https://model_signing/signature/v1.0";

/// What a clone of a repository has beside the model: model signing leaves it out by default.
const IGNORED: [&str; 4] = [".git", ".gitattributes", ".github", ".gitignore"];

/// The statement, without a signature.
pub(super) fn statement(origin: &Origin) -> Value {
    let mut files: Vec<&FileEntry> = origin.files().collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let mut all = Sha256::new();
    files.iter().for_each(|file| all.update(bytes(&file.sha256)));
    let resource = |file: &&FileEntry| json!({"name": file.name, "algorithm": "sha256", "digest": file.sha256});
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": origin.name(), "digest": {"sha256": haikuq_files::hex(&all.finalize())}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": IGNORED},
            "resources": files.iter().map(resource).collect::<Vec<_>>(),
        },
    })
}

/// The bytes that hexadecimal digits stand for.
fn bytes(hex: &str) -> Vec<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).unwrap_or_default() as u8;
    hex.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
