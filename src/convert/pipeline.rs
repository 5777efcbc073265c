//! The stream: chunks are quantized in order by all threads while one more writes and hashes what is done.

use super::files::hash_sources;
use super::journal::FinishedShard;
use super::plan::{CHUNKS_IN_MEMORY, block_rows};
use super::staged::{Staged, StagedMatrix};
use super::work::WorkFolder;
use super::{ConvertError, Plan, PlannedShard, Progress, disk};
use crate::quantize::{Equalized, StoredRows, store_rows};
use haikuq_files::little_endian;
use haikuq_format::align;
use haikuq_format::manifest::{FileEntry, TensorEntry};
use haikuq_format::spec::PerLayerEmbedding;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};

/// A quantized chunk on its way to disk: its blocks of rows, in order.
type StoredChunk = Vec<StoredRows>;

/// Converts all of `shards`, some of the plan's, that are not finished yet. Returns the sources with their hashes.
pub(super) fn run(
    pool: &rayon::ThreadPool,
    weights: &Equalized<'_>,
    plan: &Plan,
    shards: &[PlannedShard],
    staged: Option<&Staged>,
    work: &mut WorkFolder,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Vec<FileEntry>, ConvertError> {
    let (sources, notes) = (work.sources().to_vec(), work.source_notes()?);
    let remaining = &shards[work.finished()..];
    std::thread::scope(|scope| {
        let hasher = scope.spawn(|| hash_sources(&sources, Some(notes)));
        // One chunk is being quantized and one written; the rest of the allowance waits here.
        let (sender, receiver) = sync_channel::<StoredChunk>(CHUNKS_IN_MEMORY as usize - 2);
        let writer =
            scope.spawn(move || remaining.iter().try_for_each(|shard| write_shard(plan, shard, &receiver, work, progress)));
        let mut result = Ok(());
        let mut last = None;
        for &(t, c) in remaining.iter().flat_map(|s| &s.chunks) {
            let chunk = match pool.install(|| chunk(weights, plan, staged, &mut last, (t, c), progress)) {
                Ok(chunk) => chunk,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            };
            // A writer that is gone has an error of its own, which is the one to report.
            if sender.send(chunk).is_err() {
                break;
            }
        }
        drop(sender);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // An error in the weights ends the writer too, by an empty channel: the cause goes first.
        result?;
        written?;
        hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A chunk of a matrix that is staged, or quantized now. `last` is the staged matrix that was read last, whose chunks
/// follow each other.
fn chunk(
    weights: &Equalized<'_>,
    plan: &Plan,
    staged: Option<&Staged>,
    last: &mut Option<(usize, StagedMatrix)>,
    (t, c): (usize, usize),
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<StoredChunk, ConvertError> {
    let tensor = &plan.tensors[t];
    if let Some(staged) = staged.filter(|_| is_staged(tensor)) {
        let matrix = match last.take() {
            Some((of, matrix)) if of == t => matrix,
            _ => staged.read(tensor)?.ok_or_else(|| ConvertError::NotStaged { tensor: tensor.name.clone() })?,
        };
        return Ok(vec![last.insert((t, matrix)).1.rows(tensor, &tensor.chunks[c])]);
    }
    quantize_chunk(weights, plan, t, c, progress)
}

/// Whether a calibrated conversion quantizes a tensor as a whole: not what has no scheme, and not the table of all layers' numbers,
/// which is larger than all the rest and looked up in alone.
pub(super) fn is_staged(tensor: &TensorEntry) -> bool {
    tensor.class.is_quantized() && tensor.name != PerLayerEmbedding::TABLE
}

/// Reads and quantizes the chunk's blocks of rows, in parallel.
fn quantize_chunk(
    weights: &Equalized<'_>,
    plan: &Plan,
    t: usize,
    c: usize,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<StoredChunk, ConvertError> {
    let tensor = &plan.tensors[t];
    let (chunk, columns) = (&tensor.chunks[c], tensor.columns());
    let (end, step) = (chunk.first_row + chunk.rows, block_rows(columns));
    let starts: Vec<usize> = (chunk.first_row..end).step_by(step).collect();
    let block = |&start: &usize| {
        let rows = start..end.min(start + step);
        let mut values = vec![0.0; rows.len() * columns];
        weights.read_rows(&tensor.name, rows, &mut values)?;
        let stored = store_block(tensor, start, &values)?;
        progress(Progress::Weights(values.len() as u64));
        Ok(stored)
    };
    // Of several errors, the first in the order of rows is reported, however the threads ran.
    let blocks: Vec<Result<StoredRows, ConvertError>> = starts.par_iter().map(block).collect();
    let blocks = blocks.into_iter().collect::<Result<_, _>>()?;
    if c + 1 == tensor.chunks.len() {
        weights.decoder().release(&tensor.name);
    }
    Ok(blocks)
}

/// Quantizes a block of whole rows of a matrix, from row `first` on.
pub(super) fn store_block(tensor: &TensorEntry, first: usize, values: &[f32]) -> Result<StoredRows, ConvertError> {
    store_rows(tensor.scheme, tensor.columns(), values).map_err(|mut source| {
        source.row += first;
        ConvertError::TooLarge { tensor: tensor.name.clone(), source }
    })
}

/// Takes the shard's chunks from the channel, writes and hashes them, and notes the shard once it is on disk.
fn write_shard(
    plan: &Plan,
    shard: &PlannedShard,
    chunks: &Receiver<StoredChunk>,
    work: &mut WorkFolder,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<(), ConvertError> {
    let path = work.package().join(&shard.name);
    let unfinished = path.with_extension("unfinished");
    let failed = |source| ConvertError::Write { path: path.clone(), source };
    let mut out = HashedFile::create(&unfinished).map_err(failed)?;
    out.write(&shard.layout.header).map_err(failed)?;
    let mut errors = Vec::with_capacity(shard.chunks.len());
    for &(t, c) in &shard.chunks {
        let Ok(blocks) = chunks.recv() else {
            return Err(failed(std::io::Error::other("conversion stopped")));
        };
        for (p, plane) in plan.tensors[t].chunks[c].planes.iter().enumerate() {
            for block in &blocks {
                out.write(&little_endian(&block.planes[p].1)).map_err(failed)?;
            }
            out.write(&[0; haikuq_format::PLANE_ALIGNMENT as usize][..(align(plane.bytes) - plane.bytes) as usize])
                .map_err(failed)?;
        }
        let sum = |of: fn(&StoredRows) -> f64| blocks.iter().map(of).sum::<f64>();
        errors.push((sum(|b| b.squared_error), sum(|b| b.squared_norm)));
    }
    let (bytes, sha256) = out.finish().map_err(failed)?;
    assert_eq!(bytes, shard.layout.file_bytes, "{} was planned otherwise", shard.name);
    disk::rename(&unfinished, &path)?;
    disk::sync_folder(&work.package())?;
    work.add_shard(FinishedShard::new(sha256, &errors))?;
    progress(Progress::Shard(work.finished()));
    Ok(())
}

/// A file that is hashed as it is written.
struct HashedFile {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl HashedFile {
    fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self { file: disk::create_file(path)?, hash: Sha256::new(), bytes: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        disk::write(&mut self.file, bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Waits until all is on disk; returns size and SHA-256.
    fn finish(self) -> std::io::Result<(u64, String)> {
        disk::sync(&self.file)?;
        Ok((self.bytes, haikuq_files::hex(&self.hash.finalize())))
    }
}
