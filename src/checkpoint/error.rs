//! What can be wrong with a checkpoint's files.

use super::onnx::OnnxError;
use std::fmt;
use std::path::PathBuf;

/// What can be wrong with a checkpoint's files. Every message names the file, and the tensor where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// An ONNX model.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The path is no folder, nor a file that is a checkpoint by itself.
    #[error("{path}: not a folder; a checkpoint is a folder with config.json and model.safetensors, or a .gguf or .onnx file", path = path.display())]
    NotAFolder {
        /// What was asked for.
        path: PathBuf,
    },
    /// The folder is one of our own packages.
    #[error("{path}: this is a haikuq package; a full-precision checkpoint is needed here", path = path.display())]
    IsPackage {
        /// The folder.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file of weights is written to while it is read.
    #[error(
        "{path} changed while it was read (something writes to it, or cut it short): wait until it is complete, and start again",
        path = path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A file is not JSON.
    #[error("{path} is not valid JSON: {why}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        why: String,
    },
    /// Something that cannot be read like a file.
    #[error("{path} is {what}, and a file is needed there", path = path.display())]
    NoFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A file that stands for another.
    #[error("{path} is {what}", path = path.display())]
    StandIn {
        /// The file.
        path: PathBuf,
        /// Its kind, and the way out.
        what: &'static str,
    },
    /// A file that should be small.
    #[error("{path} is larger than {limit} bytes, which no such file is", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Most bytes that are read.
        limit: u64,
    },
    /// A link out of the checkpoint's folder.
    #[error(
        "{path} is a link that leads out of the checkpoint's folder, to {target}: put the file itself there",
        path = path.display(),
        target = target.display()
    )]
    Outside {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// Something that is known and no checkpoint.
    #[error("{path}: this is {what}; {way_out}", path = path.display())]
    Known {
        /// What was asked for.
        path: PathBuf,
        /// What it is.
        what: String,
        /// What to do.
        way_out: String,
    },
    /// Weights without a config.
    #[error(
        "cannot read config.json of {path}, which says what the weights there are: it is missing; put the model's config.json beside them",
        path = path.display()
    )]
    NoConfig {
        /// The folder.
        path: PathBuf,
    },
    /// Safetensors that no name and no index make one model.
    #[error("{path}: {why}", path = path.display())]
    Shards {
        /// The folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Files that a tokenizer should be made of, and cannot.
    #[error("{path} {why}", path = path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// There are only pickles.
    #[error(
        "{path} has no safetensors, only {file}: pickle files run code when they are opened; convert the checkpoint to safetensors first (save_pretrained in transformers writes them)",
        path = path.display()
    )]
    Pickle {
        /// The folder.
        path: PathBuf,
        /// A pickle in it.
        file: String,
    },
    /// There are no weights at all.
    #[error("{path} has neither model.safetensors nor model.safetensors.index.json, and no ONNX model", path = path.display())]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// The index has no table.
    #[error("{path}: weight_map is missing, empty or not a table", path = path.display())]
    Index {
        /// The index.
        path: PathBuf,
    },
    /// The index names a file outside the folder.
    #[error("{index} places tensor {tensor} in {shard:?}, which is no plain file name", index = index.display())]
    ShardName {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The name as written.
        shard: String,
    },
    /// The index and the shards disagree.
    #[error("{index} places tensor {tensor} in {shard}, which does not have it", index = index.display())]
    IndexEntry {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard.
        shard: String,
    },
    /// Two shards have a tensor of the same name.
    #[error("tensor {tensor} lies in both {first} and {second}")]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
    /// A file ends within its header or its data.
    #[error("{file} is truncated: {what} needs {needed} bytes, the file has {bytes}")]
    Truncated {
        /// The file.
        file: String,
        /// What does not fit.
        what: String,
        /// Size that the header asks for.
        needed: u64,
        /// Size of the file.
        bytes: u64,
    },
    /// A header longer than any real one.
    #[error("{file}: a header of {bytes} bytes is over the limit of {limit}")]
    HeaderTooLarge {
        /// The file.
        file: String,
        /// Length that the file claims.
        bytes: u64,
        /// Largest length allowed.
        limit: u64,
    },
    /// The header is not the JSON that safetensors wants.
    #[error("{file}: bad safetensors header: {why}")]
    Header {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// A tensor's entry contradicts itself.
    #[error("{file}: tensor {tensor}: {why}")]
    Entry {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// What is wrong, with numbers.
        why: String,
    },
    /// Two tensors share bytes.
    #[error("{file}: tensor {second} starts at byte {start} of the data, inside tensor {first}, which ends at byte {end}")]
    Overlap {
        /// The file.
        file: String,
        /// The tensor that lies first.
        first: String,
        /// The tensor that lies on it.
        second: String,
        /// Where the second starts.
        start: u64,
        /// Where the first ends.
        end: u64,
    },
    /// Bytes that belong to no tensor.
    #[error("{file}: bytes {start} to {end} of the data belong to no tensor")]
    Hole {
        /// The file.
        file: String,
        /// First byte of the hole.
        start: u64,
        /// First byte after it.
        end: u64,
    },
    /// A tensor that is not there.
    #[error("{path}: tensor {tensor} is missing{nearest}", path = path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is there.
        nearest: Nearest,
    },
    /// A head of its own that is not there.
    #[error(
        "{path}: {head} is missing, and the config says that the head is a matrix of its own (tie_word_embeddings is false, or left out where that is the family's default). If the model's head is its embedding, {embedding}, set tie_word_embeddings to true in config.json; if it was saved without its head (AutoModel in transformers), save it again with AutoModelForCausalLM",
        path = path.display()
    )]
    NoHead {
        /// The folder.
        path: PathBuf,
        /// The head.
        head: String,
        /// The embedding.
        embedding: String,
    },
    /// Weights that are quantized already, whatever the config says.
    #[error(
        "{path}: its weights are quantized already ({format}, by tensors such as {tensor}), and quantizing twice adds up both losses: convert the full-precision original",
        path = path.display()
    )]
    Quantized {
        /// The folder.
        path: PathBuf,
        /// The format.
        format: &'static str,
        /// A tensor that shows it.
        tensor: String,
    },
    /// An adapter's tensors among a model's.
    #[error(
        "{path}: tensors such as {tensor} are those of an adapter that was not merged: merge it into the model first (merge_and_unload in peft), and save the result with save_pretrained",
        path = path.display()
    )]
    AdapterInside {
        /// The folder.
        path: PathBuf,
        /// One of them.
        tensor: String,
    },
    /// Two names that are one without what is around them.
    #[error("{path}: tensors {first} and {second} are both {tensor} without what is around their names", path = path.display())]
    SameName {
        /// The folder.
        path: PathBuf,
        /// The name.
        tensor: String,
        /// One tensor.
        first: String,
        /// The other.
        second: String,
    },
    /// Several models in one checkpoint.
    #[error(
        "{path}: the model's tensors are there behind {first:?} and behind {second:?}: save the one that is meant by itself",
        path = path.display()
    )]
    SeveralInside {
        /// The folder.
        path: PathBuf,
        /// What stands before one's names.
        first: String,
        /// What stands before another's.
        second: String,
    },
    /// A number format that weights do not have.
    #[error(
        "{file}: tensor {tensor} holds {dtype} numbers; weights are read from F32, F16 and BF16 (an already quantized checkpoint cannot be converted: use the original)"
    )]
    Dtype {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The format as written.
        dtype: String,
    },
    /// A GGUF file's header makes no sense.
    #[error("{file}: not a GGUF file that can be read: at byte {at}: {why}")]
    Gguf {
        /// The file.
        file: String,
        /// Where, from the start of the file.
        at: usize,
        /// What is wrong.
        why: String,
    },
    /// A key of a GGUF file is missing or says what cannot be.
    #[error("{file}: {key} {why}")]
    GgufKey {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// What is wrong, with what was expected.
        why: String,
    },
    /// A block format of GGUF files that cannot be dequantized.
    #[error(
        "{file}: tensor {tensor} is in {found}, which cannot be read (supported: {supported}); convert the original if you can"
    )]
    GgufType {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its format.
        found: String,
        /// What there is.
        supported: String,
    },
    /// A folder with more than one GGUF model.
    #[error("{path} has several models; name one of them: {files}", path = path.display())]
    SeveralModels {
        /// The folder.
        path: PathBuf,
        /// Their names.
        files: String,
    },
    /// A GGUF model in pieces is not whole.
    #[error("{path} is a piece of a model: {why} (llama-gguf-split --merge makes one file of all pieces)", path = path.display())]
    Piece {
        /// The piece that was asked for.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A GGUF file's tokenizer cannot be made again.
    #[error("{file}: its tokenizer cannot be rebuilt: {why}")]
    GgufTokenizer {
        /// The file.
        file: String,
        /// Why.
        why: String,
    },
    /// A weight that is not a number.
    #[error("{file}: tensor {tensor}: element {index} is {value}; a checkpoint with such weights cannot be converted")]
    NotFinite {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Element, counted row after row.
        index: usize,
        /// `NaN`, `inf` or `-inf`.
        value: f32,
    },
}

/// Names in a file that are like one that is missing.
#[derive(Debug, Default)]
pub struct Nearest {
    /// A few of them, the likest first.
    names: Vec<String>,
    /// Whether any of the wanted names is there.
    any: bool,
}

impl Nearest {
    /// Those of `names` that are likest to `wanted`; `any` says whether the file has any name that is wanted.
    pub(super) fn new(wanted: &str, names: &[&str], any: bool) -> Self {
        const SHOWN: usize = 3;
        let parts: Vec<&str> = wanted.split('.').collect();
        let likeness = |name: &str| {
            let own: Vec<&str> = name.split('.').collect();
            let end = parts.iter().rev().zip(own.iter().rev()).take_while(|(a, b)| a == b).count();
            let shared = parts.iter().filter(|part| own.contains(part)).count();
            (2 * shared + end, std::cmp::Reverse(own.len().abs_diff(parts.len())))
        };
        let mut names: Vec<&str> = names.to_vec();
        names.sort_by_key(|name| std::cmp::Reverse(likeness(name)));
        Self { names: names.into_iter().take(SHOWN).map(ToString::to_string).collect(), any }
    }
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.any && !self.names.is_empty() {
            let names = self.names.join(", ");
            return write!(f, ", as are all others that the config asks for; there are names such as {names}");
        }
        match &self.names[..] {
            [] => Ok(()),
            [one] => write!(f, "; the nearest name that has no place is {one}"),
            names => write!(f, "; the nearest names that have no place are {}", names.join(", ")),
        }
    }
}
