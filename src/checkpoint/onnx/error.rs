//! What can be wrong with an ONNX model.

use std::path::PathBuf;

/// What can be wrong with an ONNX model. Every message names the file, and the tensor where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// Several models, none of which is `model.onnx`.
    #[error("{path} has several ONNX models ({names}); give the path of the one to be read", path = path.display())]
    Several {
        /// The folder.
        path: PathBuf,
        /// Their names.
        names: String,
    },
    /// No config.
    #[error(
        "{path} has no config.json{genai}; put the config.json of the original model beside it",
        path = path.display(),
        genai = if *genai { " (genai_config.json says too little about the model's arithmetic)" } else { "" }
    )]
    NoConfig {
        /// Where one was looked for.
        path: PathBuf,
        /// Whether there is a `genai_config.json`.
        genai: bool,
    },
    /// Not a protobuf message, or none of a model.
    #[error("{file} is not an ONNX model that can be read: {why}")]
    Format {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// A tensor that says something else than its bytes.
    #[error("{file}: tensor {tensor}: {why}")]
    Tensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// What is wrong, with numbers.
        why: String,
    },
    /// External data that may not or cannot be read.
    #[error("{file} places tensor {tensor} in {location:?}: {why}")]
    External {
        /// The model's file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Where the model places its bytes.
        location: String,
        /// Why they are not read.
        why: String,
    },
    /// Weights in integers, or operators for them.
    #[error("{file} is quantized already ({what}), and quantizing twice adds up both losses: export the full-precision original")]
    Quantized {
        /// The file.
        file: String,
        /// The operator or tensor that shows it.
        what: String,
    },
    /// A weight that cannot be told from others.
    #[error("{file}: cannot tell which tensor is {wanted}: {why}{candidates}\n{ADVICE}")]
    Ambiguous {
        /// The file.
        file: String,
        /// The wanted weight.
        wanted: String,
        /// What is in the way.
        why: String,
        /// What it could be, a line each.
        candidates: String,
    },
    /// A weight that the architecture has no place for.
    #[error(
        "{file}: tensor {tensor} {shape:?} ({used}) is none of the weights that the config asks for; converting without it would give another model"
    )]
    Unclaimed {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// What takes it.
        used: String,
    },
    /// A tied head that is not the embedding.
    #[error(
        "{file}: the config says that {head} is {embedding}, but the graph's head (tensor {tensor}) differs from row {row} on: set tie_word_embeddings to false if it is a weight of its own"
    )]
    NotTied {
        /// The file.
        file: String,
        /// The head's name.
        head: String,
        /// The embedding's name.
        embedding: String,
        /// The tensor that the head multiplies with.
        tensor: String,
        /// The first row that differs.
        row: usize,
    },
}

const ADVICE: &str = "Export the model again so that its nodes keep their names or scopes (torch.onnx.export does), or convert the safetensors checkpoint.";
