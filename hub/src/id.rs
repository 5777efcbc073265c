//! How people name a model on the hub: `org/name`, with a revision or a file, or an address copied from a browser.

use super::HubError;
use percent_encoding::percent_decode_str;
use std::path::{Component, Path};

/// A model on the hub, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubId {
    /// `org/name`; a few old models have no organisation.
    pub repo: String,
    /// Branch, tag or commit; none is the default branch, `main`.
    pub revision: Option<String>,
    /// The file with the weights, if one was named.
    pub file: Option<String>,
}

/// Files that may be named after an id; anything else in a third part is a path on disk with a mistake in it.
const WEIGHT_ENDINGS: [&str; 4] = [".gguf", ".onnx", ".safetensors", ".safetensors.index.json"];

/// Longest part of an id, as the hub has it.
const MAX_NAME: usize = 96;

impl HubId {
    /// Reads `org/name`, `org/name@revision`, `org/name/model.gguf` or `org/name:model.gguf` (with `@revision` before
    /// or after the file), the same after `hf:` or `hf://`, and addresses of models at `hosts` such as
    /// `https://huggingface.co/org/name/tree/main`. `org` may be left out after `hf:` alone.
    ///
    /// # Errors
    /// [`HubError::Id`] with what is wrong.
    pub fn parse(text: &str, hosts: &[&str]) -> Result<Self, HubError> {
        let fail = |why: String| HubError::Id { text: text.into(), why };
        let id = match (text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")), text.strip_prefix("hf:")) {
            (Some(address), _) => from_address(address, hosts),
            (_, Some(rest)) => from_path(rest.trim_start_matches('/'), true),
            _ => from_path(text, false),
        };
        let id = id.map_err(fail)?;
        id.check().map_err(fail)?;
        Ok(id)
    }

    /// The same, if its parts are what they should be.
    ///
    /// # Errors
    /// [`HubError::Id`] with what is wrong.
    pub fn checked(self) -> Result<Self, HubError> {
        match self.check() {
            Ok(()) => Ok(self),
            Err(why) => Err(HubError::Id { text: self.repo, why }),
        }
    }

    /// Whether `text` can be nothing but an id, by its prefix.
    pub fn is_marked(text: &str) -> bool {
        ["hf:", "https://", "http://"].iter().any(|prefix| text.starts_with(prefix))
    }

    fn check(&self) -> Result<(), String> {
        self.repo.split('/').try_for_each(check_name)?;
        if let Some(revision) = &self.revision {
            check_revision(revision)?;
        }
        match &self.file {
            Some(file) if !is_plain_path(file) => Err(format!("{file:?} is no path within a repository")),
            Some(file) if !WEIGHT_ENDINGS.iter().any(|end| file.ends_with(end)) => {
                Err(format!("after the id, {file:?} would be a file with weights: .gguf, .onnx or .safetensors"))
            }
            _ => Ok(()),
        }
    }
}

/// `org/name`, then perhaps a revision and a file.
fn from_path(text: &str, marked: bool) -> Result<HubId, String> {
    let is_end = |c: char| matches!(c, '/' | ':' | '@');
    let (first, rest) = text.split_at(text.find(is_end).unwrap_or(text.len()));
    let (repo, rest) = match rest.strip_prefix('/') {
        // `hf:gpt2/model.gguf` would be read as an organisation's model: such names need the colon.
        Some(rest) => {
            let (name, rest) = rest.split_at(rest.find(is_end).unwrap_or(rest.len()));
            (format!("{first}/{name}"), rest)
        }
        None if marked => (first.to_string(), rest),
        None => return Err("it has the form org/name".into()),
    };
    let (mut revision, mut file) = (None, None);
    if let Some(rest) = rest.strip_prefix('@') {
        let (r, f) = split_revision(rest);
        (revision, file) = (Some(decoded(r)?), f);
    } else if let Some(rest) = rest.strip_prefix([':', '/']) {
        let (f, r) = rest.split_once('@').map_or((rest, None), |(f, r)| (f, Some(r)));
        (file, revision) = (Some(f), r.map(decoded).transpose()?);
    }
    Ok(HubId { repo, revision, file: file.map(str::to_string) })
}

/// A revision, which may contain slashes, and what follows it. A colon always ends it; a slash does if a file with
/// weights follows: after the first part, or after the third of `refs/pr/1`.
fn split_revision(text: &str) -> (&str, Option<&str>) {
    if let Some((revision, file)) = text.split_once(':') {
        return (revision, Some(file));
    }
    if !WEIGHT_ENDINGS.iter().any(|end| text.ends_with(end)) {
        return (text, None);
    }
    let parts = if text.starts_with("refs/") { 3 } else { 1 };
    match text.match_indices('/').nth(parts - 1) {
        Some((at, _)) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// `huggingface.co/org/name`, then perhaps `tree/REVISION`, or `blob/REVISION/FILE` or `resolve/REVISION/FILE`.
fn from_address(address: &str, hosts: &[&str]) -> Result<HubId, String> {
    let address = address.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = address.split_once('/').unwrap_or((address, ""));
    if !hosts.iter().any(|h| h.eq_ignore_ascii_case(host)) {
        return Err(format!("{host} is not the hub ({}); HF_ENDPOINT names another one", hosts.join(", ")));
    }
    let path = decoded(path.trim_matches('/'))?;
    let parts: Vec<&str> = path.split('/').collect();
    if matches!(parts[0], "datasets" | "spaces" | "collections" | "papers" | "docs") {
        return Err(format!("it is the address of one of the hub's {}, not of a model", parts[0]));
    }
    let verb = parts.iter().position(|p| matches!(*p, "tree" | "blob" | "resolve")).unwrap_or(parts.len());
    if !(1..=2).contains(&verb) {
        return Err("a model's address has the form https://huggingface.co/org/name".into());
    }
    let rest = parts.get(verb + 1..).unwrap_or_default();
    let split = if rest.first() == Some(&"refs") { 3 } else { 1 }.min(rest.len());
    let (revision, file) = (rest[..split].join("/"), rest[split..].join("/"));
    if parts.get(verb) == Some(&"tree") && !file.is_empty() {
        return Err(format!("it is the address of the folder {file}; name the model, or a file with weights"));
    }
    let some = |text: String| Some(text).filter(|t| !t.is_empty());
    Ok(HubId { repo: parts[..verb].join("/"), revision: some(revision), file: some(file) })
}

fn decoded(text: &str) -> Result<String, String> {
    Ok(percent_decode_str(text).decode_utf8().map_err(|_| format!("{text:?} is not UTF-8"))?.into_owned())
}

/// The hub's rules for names of organisations and models.
fn check_name(name: &str) -> Result<(), String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let good = (1..=MAX_NAME).contains(&name.len())
        && name.chars().all(|c| word(c) || matches!(c, '-' | '.'))
        && name.starts_with(word)
        && name.ends_with(word)
        && !name.contains("--")
        && !name.contains("..")
        && !name.ends_with(".git");
    match good {
        true => Ok(()),
        false => Err(format!("{name:?} is no name of an organisation or model")),
    }
}

/// A revision becomes part of an address and of a path in the cache.
pub(super) fn check_revision(revision: &str) -> Result<(), String> {
    let good = is_plain_path(revision) && !revision.contains(|c: char| c.is_whitespace() || "~^:?*[@".contains(c));
    match good {
        true => Ok(()),
        false => Err(format!("{revision:?} is no branch, tag or commit")),
    }
}

/// Whether a path stays within the folder that it is put under, and is written in the one way that says so.
pub(super) fn is_plain_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 1024
        && !path.contains(|c: char| c == '\\' || c.is_control())
        && path.split('/').all(|p| !p.is_empty())
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
        && !path.split('/').any(|p| p == ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: [&str; 2] = ["huggingface.co", "hf.co"];

    fn parsed(text: &str) -> (String, Option<String>, Option<String>) {
        let id = HubId::parse(text, &HOSTS).unwrap_or_else(|e| panic!("{text}: {e}"));
        (id.repo, id.revision, id.file)
    }

    fn parts(repo: &str, revision: &str, file: &str) -> (String, Option<String>, Option<String>) {
        let some = |text: &str| Some(text.to_string()).filter(|t| !t.is_empty());
        (repo.into(), some(revision), some(file))
    }

    #[test]
    fn ids_are_read_as_people_write_them() {
        for (text, repo, revision, file) in [
            ("org/name", "org/name", "", ""),
            ("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "", ""),
            ("org/name@v1.0", "org/name", "v1.0", ""),
            ("org/name@refs/pr/3", "org/name", "refs/pr/3", ""),
            ("org/name@refs%2Fpr%2F3", "org/name", "refs/pr/3", ""),
            ("org/name@feature/x", "org/name", "feature/x", ""),
            ("org/name/model-f16.gguf", "org/name", "", "model-f16.gguf"),
            ("org/name:model-f16.gguf", "org/name", "", "model-f16.gguf"),
            ("org/name/onnx/model.onnx@dev", "org/name", "dev", "onnx/model.onnx"),
            ("org/name@dev/onnx/model.onnx", "org/name", "dev", "onnx/model.onnx"),
            ("org/name@refs/pr/3/model.gguf", "org/name", "refs/pr/3", "model.gguf"),
            ("org/name@feature/x:onnx/model.onnx", "org/name", "feature/x", "onnx/model.onnx"),
            ("hf:org/name", "org/name", "", ""),
            ("hf:gpt2", "gpt2", "", ""),
            ("hf:gpt2@main", "gpt2", "main", ""),
            ("hf:gpt2:model.gguf", "gpt2", "", "model.gguf"),
            ("hf://org/name@v2/model.gguf", "org/name", "v2", "model.gguf"),
            ("https://huggingface.co/org/name", "org/name", "", ""),
            ("https://huggingface.co/org/name/", "org/name", "", ""),
            ("https://hf.co/org/name?library=transformers#use", "org/name", "", ""),
            ("https://huggingface.co/gpt2", "gpt2", "", ""),
            ("https://huggingface.co/org/name/tree/main", "org/name", "main", ""),
            ("https://huggingface.co/org/name/tree/refs%2Fpr%2F3", "org/name", "refs/pr/3", ""),
            ("https://huggingface.co/org/name/blob/main/onnx/model.onnx", "org/name", "main", "onnx/model.onnx"),
            ("https://huggingface.co/org/name/resolve/v1/a.gguf?download=true", "org/name", "v1", "a.gguf"),
        ] {
            assert_eq!(parsed(text), parts(repo, revision, file), "{text}");
        }
    }

    #[test]
    fn what_is_no_id_is_told_why() {
        for (text, why) in [
            ("gpt2", "org/name"),
            ("", "org/name"),
            ("/abs/path", "\"\" is no name"),
            ("./rel/path", "\".\" is no name"),
            ("../x", "\"..\" is no name"),
            ("~/models", "\"~\""),
            ("a\\b/c", "\"a\\\\b\""),
            ("org/", "\"\" is no name"),
            ("org/na--me", "\"na--me\""),
            ("org/name.git", "name.git"),
            ("org/my model", "my model"),
            ("runs/tiny/step-5000", "a file with weights"),
            ("org/name:../../x.gguf", "no path within"),
            ("org/name@", "is no branch"),
            ("org/name@../../etc", "is no branch"),
            ("org/name@a b", "is no branch"),
            ("https://example.org/org/name", "example.org is not the hub"),
            ("https://huggingface.co/datasets/org/name", "datasets, not of a model"),
            ("https://huggingface.co/org/name/tree/main/onnx", "the folder onnx"),
            ("https://huggingface.co/org/name/discussions/3", "https://huggingface.co/org/name"),
            ("https://huggingface.co/org/name/blob/main/README.md", "a file with weights"),
        ] {
            let said = HubId::parse(text, &HOSTS).expect_err(text).to_string();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
