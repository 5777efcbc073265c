//! A package's numbers as the files of other programs: [`Export`]. Its files as lists for programs that sign and ship them:
//! [`Origin`].
//!
//! A package has a decoder and canonical tensors, and other programs know classes and their names for tensors. `class` finds the
//! class whose config says exactly the package's decoder; `tensors` undoes what reading a checkpoint of that class does. Since the
//! decoder is the same, so is what it computes. Scales that a conversion moved between tensors stay where they are: every one of
//! them is a tensor of the class, too.

mod class;
mod error;
mod gguf;
mod hf;
mod oci;
mod onnx;
mod origin;
mod packed;
mod safetensors;
mod sbom;
mod statement;
mod tensors;

pub use error::ExportError;
pub use gguf::GgufType;
pub use hf::HfDtype;
pub use onnx::OnnxFloats;
pub use origin::{About, Origin, OriginFormat};

use crate::architecture::Decoder;
use crate::checkpoint::Checkpoint;
use crate::convert::{Conversion, Event};
use crate::quantize::Recipe;
use crate::reference::stored::StoredWeights;
use crate::staging::Folder;
use class::{Class, differs};
use haikuq_format::manifest::TensorEntry;
use haikuq_runtime::package::{FolderSource, Package};
use std::path::{Path, PathBuf};

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// A folder that transformers loads.
    Hf(HfDtype),
    /// A folder that vLLM loads, with the package's own codes, and scales and other tensors in that type.
    CompressedTensors(HfDtype),
    /// A file that llama.cpp loads, with matrices in that type, or in those that hold the package's numbers as they are.
    Gguf(Option<GgufType>),
    /// A folder that ONNX Runtime GenAI and transformers.js load, with activations of that kind.
    Onnx(OnnxFloats),
}

/// The recipe by which a checkpoint is quantized again where a package's grids have no operator of ONNX Runtime.
pub const ONNX_RECIPE: &str = "q4-uniform";

/// A package and what to make of it.
#[derive(Clone, Debug)]
pub struct Export {
    package: PathBuf,
    format: Format,
    checkpoint: Option<PathBuf>,
    shard_bytes: Option<u64>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Exported {
    /// The class of transformers that the package is.
    pub architecture: &'static str,
    /// Paths within the folder, with bytes.
    pub files: Vec<(String, u64)>,
    /// `√(Σ(written − read)² / Σ read²)` over all weights: what the target's numbers lose of those that it was made of.
    pub relative_error: f64,
    /// The recipe by which the checkpoint was quantized again, since no operator has the grids of the package.
    pub recipe: Option<&'static str>,
}

/// Squares of all weights, and of what rounding changed.
#[derive(Clone, Copy, Debug, Default)]
struct Rounding {
    error: f64,
    norm: f64,
}

impl Rounding {
    fn add(&mut self, x: f32, stored: f32) {
        self.error += f64::from(stored - x).powi(2);
        self.norm += f64::from(x).powi(2);
    }

    fn relative(self) -> f64 {
        (self.error / self.norm.max(f64::MIN_POSITIVE)).sqrt()
    }
}

impl Export {
    /// The package in a folder, as that format.
    pub fn new(package: impl Into<PathBuf>, format: Format) -> Self {
        Self { package: package.into(), format, checkpoint: None, shard_bytes: None }
    }

    /// Takes from the checkpoint that the package was made of what a package has not. Of [`Format::Hf`] and
    /// [`Format::CompressedTensors`] this is the config; without it one of a usual family that says the same decoder is found. Of
    /// [`Format::Gguf`] it is the weights, which are rounded once then and not twice. Of [`Format::Onnx`] it is the config, and the
    /// weights where the package has learned tables or offsets.
    #[must_use]
    pub fn checkpoint(self, checkpoint: Option<PathBuf>) -> Self {
        Self { checkpoint, ..self }
    }

    /// Largest weight file, if it can be cut.
    #[must_use]
    pub fn shard_bytes(self, shard_bytes: u64) -> Self {
        Self { shard_bytes: Some(shard_bytes), ..self }
    }

    /// Writes the folder `out`, which gets its name when it is complete.
    ///
    /// # Errors
    /// See [`ExportError`]; nothing lies at `out` then that did not before.
    pub fn run(&self, out: &Path) -> Result<Exported, ExportError> {
        self.run_observed(out, &|_| ())
    }

    /// As [`Export::run`]. If a checkpoint is quantized again on the way, `observe` is told how that goes; it may be called from any
    /// thread.
    ///
    /// # Errors
    /// As [`Export::run`].
    pub fn run_observed(&self, out: &Path, observe: &(dyn Fn(Event<'_>) + Sync)) -> Result<Exported, ExportError> {
        let weights = StoredWeights::open(&self.package)?;
        if let (Format::Onnx(_), Some((tensor, why))) = (self.format, without_operator(&weights)) {
            return self.quantized_again(&weights, &tensor, why, out, observe);
        }
        let config = self.checkpoint.as_deref().filter(|_| !matches!(self.format, Format::Gguf(_)));
        let class = Class::find(&self.package, &weights.manifest, config).map_err(|error| self.without_class(error))?;
        let files = self.companions()?;
        let mut folder = Folder::new(out)?;
        let rounding = match self.format {
            Format::Hf(dtype) => {
                hf::write(&mut folder, &class, &weights, dtype, self.shard_bytes.unwrap_or(hf::SHARD_BYTES), &files)?
            }
            Format::CompressedTensors(dtype) => {
                packed::write(&mut folder, &class, &weights, dtype, self.shard_bytes.unwrap_or(hf::SHARD_BYTES), &files)?
            }
            Format::Gguf(wanted) => {
                let name = match wanted {
                    Some(wanted) => format!("{}-{}.gguf", self.name(), wanted.name()),
                    None => format!("{}.gguf", self.name()),
                };
                let original = self.original(&weights)?;
                let read = |tensor: &str| match &original {
                    Some(decoder) => Ok(decoder.read(tensor)?),
                    None => Ok(weights.read(tensor)?),
                };
                gguf::write(&mut folder, &name, &class, &weights.manifest, wanted, &files, read)?
            }
            Format::Onnx(floats) => {
                let most = self.shard_bytes.unwrap_or(onnx::PART_BYTES);
                onnx::write(&mut folder, &class, &weights, floats, most, &files)?
            }
        };
        let files = folder.finish()?;
        Ok(Exported { architecture: class.layout.architecture, files, relative_error: rounding.relative(), recipe: None })
    }

    /// The export of a package that is made of the checkpoint on the way.
    fn quantized_again(
        &self,
        weights: &StoredWeights,
        tensor: &str,
        why: &str,
        out: &Path,
        observe: &(dyn Fn(Event<'_>) + Sync),
    ) -> Result<Exported, ExportError> {
        let Some(checkpoint) = &self.checkpoint else {
            let why = format!(
                "ONNX Runtime has no operator for {why}; name the checkpoint that the package was made of (--checkpoint DIR), which is \
                 then quantized again by {ONNX_RECIPE}, or convert it by {ONNX_RECIPE} and export that package"
            );
            return Err(ExportError::Refused { what: tensor.into(), format: "onnx", why });
        };
        // Refusals come before hours of work.
        drop(Folder::new(out)?);
        let class = Class::find(&self.package, &weights.manifest, Some(checkpoint))?;
        onnx::check(&class)?;
        let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let staged = tempfile::Builder::new().prefix(".haikuq-export-").tempdir_in(parent).map_err(ExportError::io(parent))?;
        let package = staged.path().join("package");
        let conversion = Conversion::new(checkpoint, Recipe::load(ONNX_RECIPE)?).text_only(true);
        conversion.run(&package, observe).map_err(Box::new)?;
        let export = Self { package, ..self.clone() };
        Ok(Exported { recipe: Some(ONNX_RECIPE), ..export.run(out)? })
    }

    /// The package's own name.
    fn name(&self) -> String {
        let path = self.package.canonicalize().unwrap_or_else(|_| self.package.clone());
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// For a GGUF file a checkpoint's config is no way out.
    fn without_class(&self, error: ExportError) -> ExportError {
        match (self.format, error) {
            (Format::Gguf(_), ExportError::NoConfig { path, classes }) => {
                let why = format!("no config of {classes} says its decoder, and no other families are written");
                ExportError::Refused { what: path.display().to_string(), format: "gguf", why }
            }
            (_, error) => error,
        }
    }

    /// The checkpoint with the original weights, where it is named.
    fn original(&self, weights: &StoredWeights) -> Result<Option<Decoder>, ExportError> {
        let Some(path) = &self.checkpoint else { return Ok(None) };
        if self.format == Format::Gguf(None) {
            let why = "without --type it holds the package's numbers, and --checkpoint has others; name a type to round those to"
                .into();
            return Err(ExportError::Refused { what: path.display().to_string(), format: "gguf", why });
        }
        let decoder = Decoder::from_checkpoint(Checkpoint::open(path)?.text_only())?;
        match differs(&decoder.spec, &weights.manifest.spec) {
            None => Ok(Some(decoder)),
            Some((key, found, expected)) => {
                Err(ExportError::OtherDecoder { path: decoder.checkpoint().config_path().into(), key, found, expected })
            }
        }
    }

    /// Tokenizer and templates, whose hashes are as the manifest says.
    fn companions(&self) -> Result<Vec<(String, Vec<u8>)>, ExportError> {
        let fail = |source| ExportError::Package { path: self.package.clone(), source };
        let package = pollster::block_on(Package::open(FolderSource::new(&self.package))).map_err(fail)?;
        let read = |name: &String| pollster::block_on(package.read_file(name)).map(|bytes| (name.clone(), bytes)).map_err(fail);
        package.manifest().files.iter().map(|file| read(&file.name)).collect()
    }
}

/// The first matrix whose grid no operator of ONNX Runtime has, and what it has.
fn without_operator(weights: &StoredWeights) -> Option<(String, &'static str)> {
    let of = |t: &TensorEntry| Some((format!("{} in {}", t.name, t.scheme), onnx::not_held(t.scheme)?));
    weights.manifest.tensors.iter().find_map(of)
}
