//! What can be wrong with a checkpoint's files.

use super::onnx::OnnxError;
use std::path::PathBuf;

/// What can be wrong with a checkpoint's files. Every message names the file, and the tensor where there is one.
#[derive(Debug, thiserror::Error)]
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
    /// A file is not JSON.
    #[error("{path} is not valid JSON: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
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
    #[error("{index}: tensor {tensor} is said to lie in {shard:?}, which is no plain file name", index = index.display())]
    ShardName {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The name as written.
        shard: String,
    },
    /// The index and the shards disagree.
    #[error("{index}: tensor {tensor} is said to lie in {shard}, which does not have it", index = index.display())]
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
    #[error("{path}: tensor {tensor} is missing", path = path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
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
