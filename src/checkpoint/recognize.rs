//! What lies at a path: one look that finds the weights of a checkpoint, or says what is there in place of one.

use super::safetensors::{self, Set};
use super::{CONFIG_FILE, CheckpointError, gguf, onnx, regular};
use haikuq_format::manifest::MANIFEST_FILE;
use std::path::{Path, PathBuf};

/// A checkpoint's weights.
#[derive(Debug)]
pub(super) enum Found {
    /// Safetensors, with the config of their folder.
    Safetensors { folder: PathBuf, set: Set },
    /// A GGUF file, of several pieces the first.
    Gguf(PathBuf),
    /// An ONNX model, and the folder or file that was named.
    Onnx { path: PathBuf, model: PathBuf },
}

/// Finds the weights at `path`: a folder, one of its files, a model's folder in a Hugging Face cache, or a file that is a
/// checkpoint by itself.
///
/// # Errors
/// If there are none, or several: the error names the files that lie there, and the way out.
pub(super) fn find(path: &Path) -> Result<Found, CheckpointError> {
    if path.is_dir() { in_folder(path) } else { file(path) }
}

fn in_folder(folder: &Path) -> Result<Found, CheckpointError> {
    if folder.join(MANIFEST_FILE).exists() {
        return Err(CheckpointError::IsPackage { path: folder.into() });
    }
    if let Some(snapshot) = snapshot(folder)? {
        return in_folder(&snapshot);
    }
    let safetensors = |set| Found::Safetensors { folder: folder.into(), set };
    if let Some(set) = safetensors::usual(folder)? {
        return Ok(safetensors(set));
    }
    if let Some(file) = gguf::find_in(folder)? {
        return Ok(Found::Gguf(file));
    }
    if let Some(model) = onnx::find(folder)? {
        return Ok(Found::Onnx { path: folder.into(), model });
    }
    match safetensors::other(folder)? {
        Some(set) => Ok(safetensors(set)),
        None => Err(explain(folder)),
    }
}

fn file(path: &Path) -> Result<Found, CheckpointError> {
    let (folder, name) = (parent(path), name_of(path));
    let head = regular::head(path);
    if gguf::is_file(path) {
        return Ok(Found::Gguf(path.into()));
    }
    if let Some(model) = onnx::find(path)? {
        return Ok(Found::Onnx { path: path.into(), model });
    }
    if std::fs::metadata(path).is_err() {
        return Err(CheckpointError::NotAFolder { path: path.into() });
    }
    regular::open(path)?;
    if is_adapter(&name) || is_consolidated(&name) {
        return Err(explain(&folder));
    }
    if let Some(set) = safetensors::named(path)? {
        return Ok(Found::Safetensors { folder, set });
    }
    if name.ends_with(".json") && (folder.join(CONFIG_FILE).is_file() || folder.join(MANIFEST_FILE).is_file()) {
        return in_folder(&folder);
    }
    // What torch.save writes: a zip archive, or a pickle.
    if is_pickle(&name) || head.starts_with(b"PK\x03\x04") || head.starts_with(&[0x80, 0x02]) {
        return Err(CheckpointError::Pickle { path: folder, file: name });
    }
    if head.get(8) == Some(&b'{') && head.get(4..8) == Some(&[0; 4]) {
        let what = "a file of safetensors by its content, under a name that does not say so";
        let way_out = "put it into a folder with its config.json as model.safetensors, and name the folder";
        return Err(known(path, what, way_out));
    }
    Err(CheckpointError::NotAFolder { path: path.into() })
}

/// The snapshot that the folder of a model in a Hugging Face cache stands for: that of `main`, or the only one.
fn snapshot(folder: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.into());
    let name = name_of(&absolute);
    let (repo, snapshots) = match name.as_str() {
        "snapshots" => (parent(&absolute), absolute.clone()),
        _ => (absolute.clone(), absolute.join("snapshots")),
    };
    if !name_of(&repo).starts_with("models--") || !snapshots.is_dir() {
        return Ok(None);
    }
    let mut all: Vec<PathBuf> = entries(&snapshots).into_iter().filter(|p| p.is_dir()).collect();
    let main = regular::read(&repo.join("refs").join("main"), 256).ok();
    let main = main.and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some(found) = main.and_then(|commit| all.iter().position(|p| name_of(p) == commit.trim())) {
        return Ok(Some(all.swap_remove(found)));
    }
    match all.len() {
        1 => Ok(all.pop()),
        0 => Err(known(folder, "a model's folder in a Hugging Face cache, with no snapshot", "download the model again")),
        _ => {
            let names = all.iter().map(|p| name_of(p)).collect::<Vec<_>>().join(", ");
            let what = "a model's folder in a Hugging Face cache, with several snapshots and none called main";
            Err(known(folder, what, &format!("name one of them: snapshots/ has {names}")))
        }
    }
}

/// Why a folder without weights that can be read is refused.
fn explain(folder: &Path) -> CheckpointError {
    let names: Vec<String> = entries(folder).iter().map(|p| name_of(p)).collect();
    let has = |name: &str| names.iter().any(|n| n == name);
    let find = |test: &dyn Fn(&str) -> bool| names.iter().find(|n| test(n)).cloned();
    if has("adapter_config.json") || names.iter().any(|n| is_adapter(n)) {
        let config = super::json::read(&folder.join("adapter_config.json")).unwrap_or_default();
        let base = config.get("base_model_name_or_path").and_then(|v| v.as_str()).map(|base| format!(" ({base})"));
        let what = format!("an adapter (peft), which changes another model's weights{}", base.unwrap_or_default());
        let way_out = "merge the two first (merge_and_unload in peft), and save the result with save_pretrained";
        return known(folder, &what, way_out);
    }
    if let Some(file) = find(&is_consolidated)
        && (has("params.json") || file.ends_with(".safetensors"))
    {
        let what = format!("a checkpoint in the format that its authors train with ({file}, params.json)");
        let way_out = "take the same model in transformers' format (config.json with model.safetensors), which most \
                       repositories have beside it, or convert it with transformers (convert_mistral_weights_to_hf.py, \
                       convert_llama_weights_to_hf.py)";
        return known(folder, &what, way_out);
    }
    if names.iter().any(|n| n.ends_with(".distcp") || n.starts_with("global_step")) || has("zero_to_fp32.py") {
        let what = "a checkpoint in the pieces of a training run (DeepSpeed or FSDP)";
        let way_out = "make one checkpoint of it (zero_to_fp32.py of DeepSpeed, accelerate merge-weights), and save it with \
                       save_pretrained";
        return known(folder, what, way_out);
    }
    if has("model_index.json") {
        let what = "a pipeline of diffusers, not a language model";
        return known(folder, what, "name a text model");
    }
    if let Some(file) = find(&is_pickle) {
        return CheckpointError::Pickle { path: folder.into(), file };
    }
    let foreign = [".h5", ".msgpack", ".mlmodel", ".tflite", ".pdparams", ".nemo", ".npz", ".xml", ".ggml", ".engine"];
    if let Some(file) = find(&|n| foreign.iter().any(|end| n.ends_with(end))) {
        let what = format!("weights in a format that is not read ({file})");
        return known(folder, &what, "take the model as safetensors, GGUF or ONNX");
    }
    let is_model = |p: &PathBuf| p.is_dir() && (p.join(CONFIG_FILE).is_file() || name_of(p).starts_with("models--"));
    let inside: Vec<String> = entries(folder).into_iter().filter(is_model).map(|p| name_of(&p)).collect();
    if !inside.is_empty() {
        let what = "a folder without weights of its own";
        return known(folder, what, &format!("name one of the folders in it: {}", inside.join(", ")));
    }
    match super::json::read(&folder.join(CONFIG_FILE)) {
        Ok(_) => CheckpointError::NoWeights { path: folder.into() },
        Err(error) => error,
    }
}

fn known(path: &Path, what: &str, way_out: &str) -> CheckpointError {
    CheckpointError::Known { path: path.into(), what: what.into(), way_out: way_out.into() }
}

/// Whether a name is that of an adapter's weights.
pub(super) fn is_adapter(name: &str) -> bool {
    name.starts_with("adapter_model.") || name.starts_with("adapter_model-")
}

/// Whether a name is that of weights as their authors train with them.
pub(super) fn is_consolidated(name: &str) -> bool {
    name.starts_with("consolidated") && [".safetensors", ".pth"].iter().any(|end| name.ends_with(end))
}

fn is_pickle(name: &str) -> bool {
    // What trainers leave beside every kind of weights is none.
    let beside = ["training_args", "optimizer", "scheduler", "rng_state", "scaler"].iter().any(|n| name.starts_with(n));
    !beside && [".bin", ".pt", ".pth", ".ckpt", ".pkl"].iter().any(|end| name.ends_with(end))
}

/// The folder's entries, sorted.
pub(super) fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = folder.read_dir().into_iter().flatten().flatten().map(|e| e.path()).collect();
    all.sort();
    all
}

/// The last part of a path.
pub(super) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The folder that a file lies in.
fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => PathBuf::from("."),
    }
}
