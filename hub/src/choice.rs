//! Which of a repository's files a conversion needs: the configuration, the tokenizer, and one set of weights.
//!
//! Repositories often hold the same weights several times: for PyTorch as pickles, for JAX and TensorFlow, as the
//! authors trained them (`consolidated.*`, `original/`), in f32 beside f16. One set is taken, in this order: safetensors,
//! GGUF, ONNX. Where that leaves a choice between files that are not the same, the user makes it.

/// Configuration of a model.
pub(super) const CONFIG_FILE: &str = "config.json";
const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// Endings of files that run code when they are opened.
const PICKLE_ENDINGS: [&str; 5] = [".bin", ".pt", ".pth", ".ckpt", ".pkl"];

/// Parts of the names of ONNX files that are already quantized.
const QUANTIZED_ONNX: [&str; 8] = ["_q4", "_q4f16", "_q8", "_int4", "_int8", "_uint8", "_bnb4", "_quantized"];

/// One set of weights.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Weights {
    /// `model.safetensors`.
    Safetensors,
    /// The shards that `model.safetensors.index.json` names.
    Shards,
    /// All shards of a model whose names say how many there are, without an index.
    Unindexed {
        /// The shards in order.
        shards: Vec<String>,
    },
    /// A GGUF file, in one part or several.
    Gguf {
        /// All parts; the first is the one to open.
        parts: Vec<String>,
    },
    /// An ONNX graph.
    Onnx {
        /// The graph.
        graph: String,
        /// Files beside it that hold its tensors.
        data: Vec<String>,
    },
}

/// Files that go with weights, as the reader of checkpoints knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Companions<'a> {
    /// Taken wherever they are.
    pub always: Vec<&'a str>,
    /// Taken where there is no `tokenizer.json`, which can be made of them.
    pub without_tokenizer: Vec<&'a str>,
}

impl Companions<'_> {
    /// Those among `files`, and the configuration.
    fn among(&self, files: &[&str]) -> Vec<String> {
        let of_tokenizer = self.without_tokenizer.iter().filter(|_| !files.contains(&"tokenizer.json"));
        let wanted = [CONFIG_FILE].iter().chain(&self.always).chain(of_tokenizer);
        wanted.filter(|file| files.contains(file)).map(ToString::to_string).collect()
    }
}

/// Files of a repository that are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Configuration, tokenizer and what belongs to it, as far as there are any.
    pub companions: Vec<String>,
    /// The weights.
    pub weights: Weights,
}

/// Why there is nothing to take, or too much.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChoiceError {
    /// The file that was named is not there.
    #[error("there is no file {file}{similar}", similar = list("; there are ", similar))]
    NoSuchFile {
        /// What was asked for.
        file: String,
        /// Files of the same kind.
        similar: Vec<String>,
    },
    /// The file that was named holds no weights that could be read alone.
    #[error("{file} cannot be read alone; leave it out, or name a .gguf or .onnx file")]
    NotAlone {
        /// What was asked for.
        file: String,
    },
    /// Several files, not all of the same weights.
    #[error("there are several {kind} files; name one after the id, such as ID:{first}{files}", first = files[0], files = list("\n  ", files))]
    Several {
        /// `GGUF` or `ONNX`.
        kind: &'static str,
        /// All of them.
        files: Vec<String>,
    },
    /// Shards that are not all there, without the index that names them.
    #[error("there are shards such as {shard}, but not all that its name speaks of, and no {INDEX_FILE}")]
    NoIndex {
        /// One of them.
        shard: String,
    },
    /// Weights that change another model's.
    #[error(
        "{file} is an adapter, which changes another model's weights: merge the two first (merge_and_unload in peft), and save the result with save_pretrained"
    )]
    Adapter {
        /// The adapter.
        file: String,
    },
    /// Weights as their authors train with them.
    #[error(
        "{file} is in the format that its authors train with, which is not read: another repository or revision may have the model in transformers' format (config.json with model.safetensors)"
    )]
    Native {
        /// The file.
        file: String,
    },
    /// Only files that run code.
    #[error(
        "there are no safetensors, only {file}: pickle files run code when they are opened, so they are not even downloaded. A pull request on the hub may have safetensors (--revision refs/pr/NUMBER), as may another repository; or load the model with transformers where you trust it, and save it with save_pretrained"
    )]
    Pickle {
        /// One of them.
        file: String,
    },
    /// No weights at all.
    #[error("there are no weights that can be read (safetensors, GGUF or ONNX){found}", found = list("; there are ", found))]
    NoWeights {
        /// Some of what there is.
        found: Vec<String>,
    },
    /// Weights, but nothing that says what they are.
    #[error("there is no config.json, which says what the weights are")]
    NoConfig,
}

/// Up to twenty names, after `before`; nothing if there are none.
fn list(before: &str, names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let between = if before.starts_with('\n') { before } else { ", " };
    let more = if names.len() > 20 { format!("{between}and {} more", names.len() - 20) } else { String::new() };
    format!("{before}{}{more}", names.iter().take(20).map(String::as_str).collect::<Vec<_>>().join(between))
}

impl Choice {
    /// Chooses among `files`, paths within the repository; `named` is the file that the user named, if any. Of `companions`
    /// those are taken that are there.
    ///
    /// # Errors
    /// See [`ChoiceError`].
    pub fn new(files: &[&str], named: Option<&str>, companions: &Companions) -> Result<Self, ChoiceError> {
        let weights = match named {
            Some(file) => named_weights(files, file)?,
            None => best_weights(files)?,
        };
        if !matches!(weights, Weights::Gguf { .. }) && !files.contains(&CONFIG_FILE) {
            return Err(ChoiceError::NoConfig);
        }
        Ok(Self { companions: companions.among(files), weights })
    }

    /// All files but the shards, which only the index knows.
    pub fn files(&self) -> Vec<String> {
        let mut files = self.companions.clone();
        match &self.weights {
            Weights::Safetensors => files.push(SINGLE_FILE.into()),
            Weights::Shards => files.push(INDEX_FILE.into()),
            Weights::Unindexed { shards } => files.extend(shards.iter().cloned()),
            Weights::Gguf { parts } => files.extend(parts.iter().cloned()),
            Weights::Onnx { graph, data } => {
                files.push(graph.clone());
                files.extend(data.iter().cloned());
            }
        }
        files
    }

    /// The index to read the shards' names from, if there is one.
    pub fn index(&self) -> Option<&'static str> {
        (self.weights == Weights::Shards).then_some(INDEX_FILE)
    }

    /// The file to open; none if the folder is the checkpoint.
    pub fn entry(&self) -> Option<&str> {
        match &self.weights {
            Weights::Safetensors | Weights::Shards | Weights::Unindexed { .. } => None,
            Weights::Gguf { parts } => parts.first().map(String::as_str),
            Weights::Onnx { graph, .. } => Some(graph),
        }
    }
}

fn named_weights(files: &[&str], named: &str) -> Result<Weights, ChoiceError> {
    if !files.contains(&named) {
        let end = named.rsplit_once('.').map_or("", |n| n.1);
        let similar = files.iter().filter(|f| f.rsplit_once('.').is_some_and(|f| f.1 == end)).map(ToString::to_string).collect();
        return Err(ChoiceError::NoSuchFile { file: named.into(), similar });
    }
    match named {
        SINGLE_FILE => Ok(Weights::Safetensors),
        // A folder with both is read by its single file.
        INDEX_FILE if !files.contains(&SINGLE_FILE) => Ok(Weights::Shards),
        _ if named.ends_with(".gguf") => Ok(Weights::Gguf { parts: gguf_parts(files, named) }),
        _ if named.ends_with(".onnx") => Ok(onnx(files, named)),
        _ => Err(ChoiceError::NotAlone { file: named.into() }),
    }
}

fn best_weights(files: &[&str]) -> Result<Weights, ChoiceError> {
    if files.contains(&SINGLE_FILE) {
        return Ok(Weights::Safetensors);
    }
    if files.contains(&INDEX_FILE) {
        return Ok(Weights::Shards);
    }
    let shard = |f: &&&str| f.starts_with("model-") && f.ends_with(".safetensors") && f.contains("-of-");
    if let Some(shard) = files.iter().find(shard) {
        let no_index = || ChoiceError::NoIndex { shard: shard.to_string() };
        return Ok(Weights::Unindexed { shards: unindexed(files, shard).ok_or_else(no_index)? });
    }
    let gguf: Vec<&str> = files.iter().copied().filter(|f| is_gguf_model(f)).collect();
    if let Some(file) = only("GGUF", &gguf)? {
        return Ok(Weights::Gguf { parts: gguf_parts(files, file) });
    }
    for usual in ["model.onnx", "onnx/model.onnx"] {
        if files.contains(&usual) {
            return Ok(onnx(files, usual));
        }
    }
    let graphs: Vec<&str> = files.iter().copied().filter(|f| f.ends_with(".onnx")).collect();
    let full: Vec<&str> = graphs.iter().copied().filter(|f| !is_quantized_onnx(f)).collect();
    if let Some(file) = only("ONNX", if full.is_empty() { &graphs } else { &full })? {
        return Ok(onnx(files, file));
    }
    Err(nothing(files))
}

/// All shards that a shard's name speaks of, `model-00001-of-00002.safetensors`; none if one is not there.
fn unindexed(files: &[&str], shard: &str) -> Option<Vec<String>> {
    let (rest, count) = shard.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (stem, _) = rest.rsplit_once('-')?;
    // A name sizes no list: each of them is among the files.
    let number = count.parse().ok().filter(|n| (1..=files.len()).contains(n))?;
    let all = (1..=number).map(|i| format!("{stem}-{i:05}-of-{count}.safetensors"));
    all.map(|name| files.contains(&name.as_str()).then_some(name)).collect()
}

/// The one file of its kind, if there is one.
fn only<'a>(kind: &'static str, files: &[&'a str]) -> Result<Option<&'a str>, ChoiceError> {
    match files {
        [] => Ok(None),
        [file] => Ok(Some(file)),
        _ => Err(ChoiceError::Several { kind, files: files.iter().map(ToString::to_string).collect() }),
    }
}

fn nothing(files: &[&str]) -> ChoiceError {
    let find = |test: &dyn Fn(&str) -> bool| files.iter().find(|f| test(file_name(f))).map(ToString::to_string);
    if let Some(file) = find(&|f| f.starts_with("adapter_model.")) {
        return ChoiceError::Adapter { file };
    }
    if let Some(file) = find(&|f| f.starts_with("consolidated") && f.ends_with(".safetensors")) {
        return ChoiceError::Native { file };
    }
    // `training_args.bin` and the like are no weights, and are beside every kind of them.
    let is_pickle = |f: &str| PICKLE_ENDINGS.iter().any(|end| f.ends_with(end));
    let weights = |f: &str| is_pickle(f) && ["model", "consolidated", "weights"].iter().any(|w| f.contains(w));
    match find(&weights).or_else(|| find(&is_pickle)) {
        Some(file) => ChoiceError::Pickle { file },
        None => {
            let shown = |f: &&&str| !f.starts_with('.') && !f.ends_with(".md");
            ChoiceError::NoWeights { found: files.iter().filter(shown).map(ToString::to_string).collect() }
        }
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A GGUF file that is a model, and of one in several parts the first.
fn is_gguf_model(path: &str) -> bool {
    let name = file_name(path).to_ascii_lowercase();
    let helper = name.contains("mmproj") || name.contains("imatrix");
    name.ends_with(".gguf") && !helper && gguf_part(path).is_none_or(|(_, part, _)| part == 1)
}

/// `model-00002-of-00003.gguf` as `("model", 2, 3)`.
fn gguf_part(path: &str) -> Option<(&str, usize, usize)> {
    let (rest, count) = path.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    (part.len() == 5 && count.len() == 5).then_some((stem, part.parse().ok()?, count.parse().ok()?))
}

/// The file, or all parts of the model that it is a part of, in order.
fn gguf_parts(files: &[&str], file: &str) -> Vec<String> {
    let Some((stem, _, count)) = gguf_part(file) else { return vec![file.into()] };
    let part = |f: &&&str| gguf_part(f).is_some_and(|(s, _, c)| (s, c) == (stem, count));
    let mut parts: Vec<String> = files.iter().filter(part).map(ToString::to_string).collect();
    parts.sort_unstable();
    parts
}

fn is_quantized_onnx(path: &str) -> bool {
    let stem = path.strip_suffix(".onnx").unwrap_or(path);
    QUANTIZED_ONNX.iter().any(|q| stem.ends_with(q))
}

/// A graph with its data, which exporters put beside it as `model.onnx_data`, `model.onnx_data_1`, `model.onnx.data`
/// or `model.data`.
fn onnx(files: &[&str], graph: &str) -> Weights {
    let stem = graph.strip_suffix(".onnx").unwrap_or(graph);
    let is_data = |f: &&&str| {
        let rest = f.strip_prefix(graph).or_else(|| f.strip_prefix(stem)).unwrap_or_default();
        ["_data", ".data"].iter().any(|d| rest.strip_prefix(d).is_some_and(|n| n.is_empty() || n.starts_with(['_', '.', '-'])))
    };
    Weights::Onnx { graph: graph.into(), data: files.iter().filter(is_data).map(ToString::to_string).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(files: &[&str], named: Option<&str>) -> Result<Choice, ChoiceError> {
        let always = vec![
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
            "chat_template.jinja",
            "special_tokens_map.json",
        ];
        Choice::new(files, named, &Companions { always, without_tokenizer: vec!["tokenizer.model", "vocab.json"] })
    }

    fn chosen(files: &[&str]) -> Vec<String> {
        choose(files, None).unwrap_or_else(|e| panic!("{files:?}: {e}")).files()
    }

    fn refused(files: &[&str]) -> String {
        choose(files, None).expect_err("nothing to choose").to_string()
    }

    #[test]
    fn safetensors_are_taken_once_with_configuration_and_tokenizer_and_nothing_else() {
        let files = [
            ".gitattributes",
            "README.md",
            "chat_template.jinja",
            "config.json",
            "consolidated.00.pth",
            "consolidated.safetensors",
            "coreml/model.mlmodelc/weights/weight.bin",
            "flax_model.msgpack",
            "generation_config.json",
            "model-f16.gguf",
            "model.fp32-00001-of-00002.safetensors",
            "model.fp32.safetensors",
            "model.safetensors",
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "openvino_model.bin",
            "original/consolidated.00.pth",
            "pytorch_model.bin",
            "runs/events.out.tfevents",
            "special_tokens_map.json",
            "tf_model.h5",
            "tokenizer.json",
            "tokenizer.model",
            "tokenizer_config.json",
            "training_args.bin",
            "vocab.json",
        ];
        let mut taken = chosen(&files);
        taken.sort();
        let expected = [
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        assert_eq!(taken, expected);
        assert_eq!(choose(&files, None).unwrap().entry(), None);
    }

    #[test]
    fn without_a_tokenizer_json_the_files_that_make_one_are_taken() {
        let files = ["config.json", "model.safetensors", "tokenizer.model"];
        assert_eq!(chosen(&files), [files[0], files[2], files[1]]);
    }

    #[test]
    fn of_shards_the_index_is_read_first() {
        let files = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX_FILE];
        let choice = choose(&files, None).unwrap();
        assert_eq!((choice.index(), choice.files()), (Some(INDEX_FILE), vec![CONFIG_FILE.into(), INDEX_FILE.into()]));
        assert_eq!(chosen(&files[..3]), files[..3], "names say that these are all");
        assert!(refused(&files[..2]).contains("not all that its name speaks of"));
    }

    #[test]
    fn a_single_gguf_is_taken_and_several_are_listed() {
        let one = ["README.md", "model-f16.gguf", "mmproj-model-f16.gguf", "pytorch_model.bin"];
        assert_eq!(choose(&one, None).unwrap().entry(), Some("model-f16.gguf"));
        assert_eq!(chosen(&one), ["model-f16.gguf"]);
        let several = ["config.json", "m-Q4_K_M.gguf", "m-f16.gguf"];
        assert!(refused(&several).contains("such as ID:m-Q4_K_M.gguf\n  m-Q4_K_M.gguf\n  m-f16.gguf"), "{}", refused(&several));
        let named = choose(&several, Some("m-f16.gguf")).unwrap();
        assert_eq!(named.files(), ["config.json", "m-f16.gguf"]);
        let said = choose(&several, Some("m-f32.gguf")).unwrap_err().to_string();
        assert!(said.contains("no file m-f32.gguf; there are m-Q4_K_M.gguf, m-f16.gguf"), "{said}");
    }

    #[test]
    fn a_gguf_in_parts_is_one_model() {
        let files = ["m-f16-00001-of-00002.gguf", "m-f16-00002-of-00002.gguf"];
        assert_eq!(chosen(&files), files);
        assert_eq!(choose(&files, Some(files[1])).unwrap().entry(), Some(files[0]));
    }

    #[test]
    fn onnx_in_full_precision_comes_with_its_data() {
        let files = ["config.json", "onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx_data_1", "onnx/model_q4.onnx"];
        assert_eq!(chosen(&files), files[..4]);
        assert_eq!(
            chosen(&["config.json", "a.onnx", "a.data", "a_q4.onnx", "a_q4.onnx.data"]),
            ["config.json", "a.onnx", "a.data"]
        );
        let named = choose(&files, Some("onnx/model_q4.onnx")).unwrap();
        assert_eq!(named.files(), ["config.json", "onnx/model_q4.onnx"]);
        let said = refused(&["config.json", "onnx/decoder.onnx", "onnx/decoder_with_past.onnx"]);
        assert!(said.contains("several ONNX files"), "{said}");
        assert_eq!(choose(&["model.onnx"], None), Err(ChoiceError::NoConfig));
    }

    #[test]
    fn what_cannot_be_read_is_named_with_the_way_out() {
        let said = refused(&["config.json", "pytorch_model-00001-of-00002.bin", "training_args.bin"]);
        assert!(
            said.contains("pytorch_model-00001-of-00002.bin") && said.contains("run code") && said.contains("refs/pr"),
            "{said}"
        );
        let said = refused(&["adapter_config.json", "adapter_model.safetensors", "training_args.bin"]);
        assert!(said.contains("adapter_model.safetensors is an adapter"), "{said}");
        let said = refused(&["consolidated.safetensors", "params.json"]);
        assert!(said.contains("consolidated.safetensors is in the format that its authors train with"), "{said}");
        let said = refused(&["README.md", "tf_model.h5", "config.json"]);
        assert!(said.contains("there are tf_model.h5, config.json"), "{said}");
        assert_eq!(refused(&[]), "there are no weights that can be read (safetensors, GGUF or ONNX)");
        assert!(choose(&["consolidated.safetensors"], Some("consolidated.safetensors")).is_err());
    }
}
