//! A package loaded on a native GPU: what `run`, `chat`, `score`, `validate` and `bench` have in common.

use crate::kernel_times::KernelTimes;
use crate::model::{BoxError, LanguageModel, greedy};
use haikuq_runtime::decoder::{CachePrecision, Choice, Decoder, DecoderError, DecoderOptions, LoadProgress, Next, SequenceId};
use haikuq_runtime::device::{Gpu, GpuError, GpuOptions};
use haikuq_runtime::package::{FolderSource, Package, PackageError};
use haikuq_runtime::sampling::SamplingOptions;
use haikuq_runtime::text::{GenerationDefaults, Tokenizer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A package's decoder on a GPU, with its tokenizer.
pub struct Runner {
    /// The decoder.
    pub decoder: Decoder,
    /// The package that it was loaded from.
    pub package: Package,
    /// What a user should know of the load, in sentences.
    pub notes: Vec<String>,
}

/// How to load a package.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RunnerOptions {
    /// The GPU.
    pub gpu: GpuOptions,
    /// The decoder.
    pub decoder: DecoderOptions,
    /// Where times of kernels are kept from load to load; nowhere if absent.
    pub kernel_times: Option<KernelTimes>,
}

/// A package could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("cannot load the package {}", folder.display())]
pub struct RunnerError {
    /// The package's folder.
    pub folder: PathBuf,
    /// The reason.
    pub source: RunnerErrorKind,
}

/// Why a package could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunnerErrorKind {
    /// It is damaged or not there.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// No GPU can run it.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The runtime does not support its decoder, or has no room for it.
    #[error(transparent)]
    Decoder(#[from] DecoderError),
}

impl RunnerOptions {
    /// A GPU by name or index, a cache precision, everything else by default.
    pub fn new(adapter: Option<String>, cache: CachePrecision) -> Self {
        let mut decoder = DecoderOptions::default();
        decoder.cache = cache;
        Self { gpu: GpuOptions::new(adapter), decoder, kernel_times: None }
    }
}

impl Runner {
    /// Opens the package in `folder`, checks it and loads it.
    ///
    /// # Errors
    /// If the package is damaged or unsupported, or the GPU is missing or too small.
    pub fn load(folder: &Path, options: &RunnerOptions, progress: &mut dyn FnMut(LoadProgress)) -> Result<Self, RunnerError> {
        let load = async {
            let package = Package::open(FolderSource::new(folder)).await?;
            haikuq_runtime::decoder::require_supported(&package.manifest().spec)?;
            let gpu = Arc::new(Gpu::open(&options.gpu).await?);
            let (mut decoder_options, mut notes) = (options.decoder.clone(), Vec::new());
            if let Some(times) = &options.kernel_times {
                decoder_options.measured = times.read(&gpu.key()).unwrap_or_else(|note| {
                    notes.push(note);
                    None
                });
            }
            let decoder = Decoder::load(gpu, &package, &decoder_options, progress).await?;
            let measured = decoder.measured();
            let news = !measured.entries.is_empty() && decoder_options.measured.as_ref() != Some(measured);
            if let Some(times) = options.kernel_times.as_ref().filter(|_| news)
                && let Err(error) = times.write(measured)
            {
                let file = times.file(&measured.device);
                notes.push(format!("{}: {error}; kernels will be measured again", file.display()));
            }
            Ok(Self { decoder, package, notes })
        };
        pollster::block_on(load).map_err(|source| RunnerError { folder: folder.into(), source })
    }

    /// The package's tokenizer.
    ///
    /// # Errors
    /// If it has none or it cannot be read.
    pub fn tokenizer(&self) -> Result<Tokenizer, PackageError> {
        pollster::block_on(self.package.tokenizer())
    }

    /// The package's own defaults for a generation, and the spec's stop tokens.
    ///
    /// # Errors
    /// If `generation_config.json` cannot be read.
    pub fn generation_defaults(&self) -> Result<GenerationDefaults, PackageError> {
        pollster::block_on(self.package.generation_defaults())
    }
}

impl LanguageModel for Runner {
    fn score_window(&mut self, ids: &[u32], on_row: &mut dyn FnMut(usize, &[f32])) -> Result<(), BoxError> {
        Ok(pollster::block_on(self.decoder.score(ids, on_row))?)
    }

    fn generate_greedy(&mut self, prompt: &[u32], max_new: usize) -> Result<Vec<u32>, BoxError> {
        let id = self.decoder.create_sequence()?;
        let spec = self.decoder.spec().clone();
        let step = |ids: &[u32]| pollster::block_on(likeliest(&mut self.decoder, id, ids));
        let result = greedy(&spec, prompt, max_new, step);
        self.decoder.remove_sequence(id)?;
        Ok(result?)
    }
}

/// Appends `ids` to a sequence and gives the likeliest id after them.
async fn likeliest(decoder: &mut Decoder, sequence: SequenceId, ids: &[u32]) -> Result<u32, DecoderError> {
    const GREEDY: SamplingOptions = SamplingOptions::greedy();
    let choice = Choice { sampling: &GREEDY, step: 0 };
    if let (&[token], true) = (ids, decoder.sequence_len(sequence)? > 0) {
        return Ok(decoder.decode(&[Next { sequence, token, choice }]).await?[0]);
    }
    decoder.expect(sequence, ids.len())?;
    for chunk in ids.chunks(decoder.prefill_chunk()) {
        decoder.prefill(sequence, chunk).await?;
    }
    decoder.sample_first(sequence, choice).await
}

/// Whether `path` is a folder with a haikuq manifest.
pub fn is_package(path: &Path) -> bool {
    path.join(haikuq_format::manifest::MANIFEST_FILE).is_file()
}
