//! [`Package`]: opening a package from any byte source, and trusting nothing of it before it was checked.
//!
//! The manifest comes first. It is checked as a whole by [`haikuq_format`] (version, spec, tensor table, offsets,
//! overlaps), and from then on it says what every other file must be: its length and its SHA-256, and for shards the
//! name, offset and size of every entry. Bytes leave this module only when all of that holds.

mod error;
mod rows;
pub mod source;
#[cfg(test)]
pub(crate) mod test_package;
#[cfg(test)]
mod tests;

pub use error::PackageError;
pub use rows::TableRows;
pub use source::{ByteSource, HeldFile, MemorySource, SourceError, SourceFuture, ThreadSafe, check_file_name};
#[cfg(all(feature = "native", not(target_arch = "wasm32")))]
pub use source::{FolderSource, within};

use crate::ordered;
use crate::text::{GenerationDefaults, TextError, Tokenizer, TokenizerFiles};
use haikuq_format::align;
use haikuq_format::manifest::{FileEntry, MANIFEST_FILE, Manifest, Plane, TensorEntry, entry_name};
use haikuq_format::shard::{read_shard_header, shard_header_bytes};
use sha2::{Digest, Sha256};
use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

/// A manifest larger than this is refused unread. Real ones have about 300 bytes a plane: 2 MB for a thousand tensors.
pub const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// Bytes of a file that are read at a time.
pub const PIECE_BYTES: u64 = 4 << 20;

/// A package whose manifest was read and checked.
pub struct Package {
    source: Arc<dyn ByteSource>,
    manifest: Manifest,
}

/// One plane of a shard, with what it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct ShardPlane<'a> {
    /// The tensor.
    pub tensor: &'a TensorEntry,
    /// Index into [`TensorEntry::chunks`].
    pub chunk: usize,
    /// The plane; its `offset` is from the start of the shard's bytes, where `align(bytes)` bytes can be bound.
    pub plane: Plane,
}

impl Package {
    /// Reads and checks the manifest; nothing else is read yet.
    ///
    /// # Errors
    /// If `haikuq.json` is missing, oversized, of another version, or says anything that does not fit together.
    pub async fn open(source: impl ByteSource + 'static) -> Result<Self, PackageError> {
        let bytes = read_fully(&source, MANIFEST_FILE, 0..MAX_MANIFEST_BYTES + 1).await?;
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(PackageError::ManifestTooLarge { limit: MAX_MANIFEST_BYTES });
        }
        let manifest = Manifest::from_json(&bytes)?;
        Ok(Self { source: Arc::new(source), manifest })
    }

    /// The checked manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The planes that lie in shard `index`, in the order of the tensor table.
    pub fn planes(&self, index: usize) -> impl Iterator<Item = ShardPlane<'_>> {
        self.manifest.tensors.iter().flat_map(move |tensor| {
            tensor.chunks.iter().enumerate().flat_map(move |(chunk, c)| {
                let here = c.planes.iter().filter(move |p| p.shard == index);
                here.map(move |&plane| ShardPlane { tensor, chunk, plane })
            })
        })
    }

    /// Hands over the bytes of shard `index` in order, as `(offset, bytes)` with at most [`PIECE_BYTES`] at a time, so
    /// that a shard never has to lie in memory whole.
    ///
    /// **Nothing is proven before this returns `Ok`**: only then were the shard's length, its SHA-256 and each of its
    /// entries (name, offset and size) found to be what the manifest says. Where they are not and the source has
    /// another copy ([`ByteSource::refresh`]), everything is handed over once more from offset 0.
    ///
    /// # Errors
    /// The first of these that does not hold.
    pub async fn stream_shard(&self, index: usize, on_piece: &mut (impl FnMut(u64, &[u8]) + ?Sized)) -> Result<(), PackageError> {
        let shards = &self.manifest.shards;
        let entry = shards.get(index).ok_or(PackageError::NoSuchShard { index, count: shards.len() })?;
        let mut header = Vec::new();
        self.stream_checked(entry, &mut |offset, piece| {
            if offset == 0 {
                header.clear();
            }
            // As much as the header needs, once its length is known.
            let whole = shard_header_bytes(&header, entry.bytes).unwrap_or(PIECE_BYTES);
            if (header.len() as u64) < whole {
                header.extend_from_slice(piece);
            }
            on_piece(offset, piece);
        })
        .await?;
        self.check_entries(index, &header)
    }

    /// The whole of shard `index` where the source holds it ([`ByteSource::hold`]), after all that
    /// [`Package::stream_shard`] checks was checked. `None` where it is to be streamed.
    ///
    /// # Errors
    /// As there.
    pub async fn hold_shard(&self, index: usize) -> Result<Option<Box<dyn HeldFile>>, PackageError> {
        let shards = &self.manifest.shards;
        let entry = shards.get(index).ok_or(PackageError::NoSuchShard { index, count: shards.len() })?;
        let held = match self.hold_once(entry).await {
            Err(damage) if damage.is_of_copy() && self.source.refresh(&entry.name).await? => self.hold_once(entry).await?,
            result => result?,
        };
        if let Some(held) = &held {
            let mut start = held.copy(0..entry.bytes.min(8));
            // A length that cannot be right is refused below.
            if let Ok(header) = shard_header_bytes(&start, entry.bytes) {
                start = held.copy(0..header);
            }
            self.check_entries(index, &start)?;
        }
        Ok(held)
    }

    /// The whole of shard `index`; see [`Package::stream_shard`] for what is checked.
    ///
    /// # Errors
    /// As there.
    pub async fn read_shard(&self, index: usize) -> Result<Vec<u8>, PackageError> {
        let mut bytes = Vec::new();
        self.stream_shard(index, &mut |offset, piece| {
            bytes.truncate(offset as usize);
            bytes.extend_from_slice(piece);
        })
        .await?;
        Ok(bytes)
    }

    /// The whole of a file that the manifest lists beside the shards, such as `tokenizer.json`, after its length and
    /// its SHA-256 were found to be what the manifest says.
    ///
    /// # Errors
    /// If the manifest does not list it, it cannot be read, or it is not what the manifest says.
    pub async fn read_file(&self, name: &str) -> Result<Vec<u8>, PackageError> {
        match self.read_optional(name).await? {
            Some(bytes) => Ok(bytes),
            None => Err(PackageError::NotListed { file: name.into() }),
        }
    }

    /// [`Package::read_file`], with `None` where the manifest does not list the file.
    ///
    /// # Errors
    /// If the file is listed and cannot be read or is not what the manifest says.
    pub async fn read_optional(&self, name: &str) -> Result<Option<Vec<u8>>, PackageError> {
        match self.manifest.files.iter().find(|f| f.name == name) {
            Some(entry) => self.read_checked(entry).await.map(Some),
            None => Ok(None),
        }
    }

    /// The package's tokenizer with its chat template.
    ///
    /// # Errors
    /// If `tokenizer.json` is not listed, a file is not what the manifest says, or it is no tokenizer.
    pub async fn tokenizer(&self) -> Result<Tokenizer, PackageError> {
        let tokenizer = self.read_file("tokenizer.json").await?;
        let config = self.read_optional("tokenizer_config.json").await?;
        let special_tokens_map = self.read_optional("special_tokens_map.json").await?;
        let chat_template = match self.read_optional("chat_template.jinja").await? {
            Some(bytes) => Some(template_text("chat_template.jinja", bytes)?),
            None => None,
        };
        let mut others = Vec::new();
        for file in &self.manifest.files {
            if let Some(name) = additional_chat_template_name(&file.name) {
                others.push((name, template_text(&file.name, self.read_checked(file).await?)?));
            }
        }
        let others: Vec<(&str, &str)> = others.iter().map(|(name, text)| (*name, text.as_str())).collect();
        Ok(Tokenizer::from_files(TokenizerFiles {
            tokenizer: &tokenizer,
            config: config.as_deref(),
            special_tokens_map: special_tokens_map.as_deref(),
            chat_template: chat_template.as_deref(),
            additional_chat_templates: &others,
        })?)
    }

    /// What the checkpoint recommends for generation; nothing where the package has no `generation_config.json`.
    ///
    /// # Errors
    /// If the file is not what the manifest says or cannot be parsed.
    pub async fn generation_defaults(&self) -> Result<GenerationDefaults, PackageError> {
        match self.read_optional("generation_config.json").await? {
            Some(bytes) => Ok(GenerationDefaults::from_json(&bytes)?),
            None => Ok(GenerationDefaults::default()),
        }
    }

    /// Checks everything but the hashes of shards, without reading their weights: lengths and headers of shards, and the whole
    /// of the other files.
    ///
    /// # Errors
    /// The first thing that is not what the manifest says.
    #[cfg(all(feature = "native", not(target_arch = "wasm32")))]
    pub async fn check_layout(&self) -> Result<(), PackageError> {
        for (index, entry) in self.manifest.shards.iter().enumerate() {
            let length = read_fully(&*self.source, &entry.name, 0..entry.bytes.min(8)).await?;
            let header = shard_header_bytes(&length, entry.bytes);
            let header = header.map_err(|source| PackageError::Shard { file: entry.name.clone(), source })?;
            // The last byte, and one more that is not to be there.
            let last = entry.bytes.saturating_sub(1);
            let end = read_fully(&*self.source, &entry.name, last..last.saturating_add(2)).await?;
            check_length(entry, last + end.len() as u64)?;
            self.check_entries(index, &read_fully(&*self.source, &entry.name, 0..header).await?)?;
        }
        for entry in &self.manifest.files {
            self.read_checked(entry).await?;
        }
        Ok(())
    }

    async fn read_checked(&self, entry: &FileEntry) -> Result<Vec<u8>, PackageError> {
        let mut bytes = Vec::new();
        self.stream_checked(entry, &mut |offset, piece| {
            bytes.truncate(offset as usize);
            bytes.extend_from_slice(piece);
        })
        .await?;
        Ok(bytes)
    }

    /// Streams a file's bytes and then says whether they were the right ones. Another copy gets one chance.
    async fn stream_checked(
        &self,
        entry: &FileEntry,
        on_piece: &mut (impl FnMut(u64, &[u8]) + ?Sized),
    ) -> Result<(), PackageError> {
        match self.stream_once(entry, on_piece).await {
            Err(damage) if damage.is_of_copy() && self.source.refresh(&entry.name).await? => {
                self.stream_once(entry, on_piece).await
            }
            result => result,
        }
    }

    async fn hold_once(&self, entry: &FileEntry) -> Result<Option<Box<dyn HeldFile>>, PackageError> {
        let Some(held) = self.source.hold(&entry.name).await? else { return Ok(None) };
        check_length(entry, held.bytes())?;
        check_hash(entry, hex(&held.sha256()))?;
        Ok(Some(held))
    }

    async fn stream_once(&self, entry: &FileEntry, on_piece: &mut (impl FnMut(u64, &[u8]) + ?Sized)) -> Result<(), PackageError> {
        let (mut hasher, mut found) = (Sha256::new(), 0);
        loop {
            // One byte more than there should be shows a file that is too long without reading all of it.
            let end = (found + PIECE_BYTES).min(entry.bytes.saturating_add(1));
            let piece = read_fully(&*self.source, &entry.name, found..end).await?;
            if found + piece.len() as u64 > entry.bytes {
                return check_length(entry, found + piece.len() as u64);
            }
            let ended = found + (piece.len() as u64) < end;
            if !piece.is_empty() {
                hasher.update(&piece);
                on_piece(found, &piece);
                found += piece.len() as u64;
            }
            if ended {
                break;
            }
        }
        check_length(entry, found)?;
        check_hash(entry, hex(&hasher.finalize()))
    }

    /// Compares a shard's header (and what follows it in `start`) with the manifest.
    fn check_entries(&self, index: usize, start: &[u8]) -> Result<(), PackageError> {
        let file = || self.manifest.shards[index].name.clone();
        let listed = read_shard_header(start, self.manifest.shards[index].bytes)
            .map_err(|source| PackageError::Shard { file: file(), source })?;
        let mut listed = ordered::map(listed.iter().map(|e| (e.name.as_str(), e)));
        for ShardPlane { tensor, chunk, plane } in self.planes(index) {
            let entry = entry_name(&tensor.name, chunk, plane.kind);
            let Some(found) = listed.remove(entry.as_str()) else {
                return Err(PackageError::MissingEntry { file: file(), entry, offset: plane.offset });
            };
            if found.offset != plane.offset {
                return Err(PackageError::EntryOffset { file: file(), entry, expected: plane.offset, found: found.offset });
            }
            let expected = align(plane.bytes);
            if found.padded_bytes != expected {
                return Err(PackageError::EntrySize { file: file(), entry, expected, found: found.padded_bytes });
            }
        }
        match listed.into_values().next() {
            Some(e) => Err(PackageError::UnexpectedEntry { file: file(), entry: e.name.clone(), offset: e.offset }),
            None => Ok(()),
        }
    }
}

/// How packages call a checkpoint's `additional_chat_templates/NAME.jinja`: the names of their files are plain.
pub fn additional_chat_template_file(name: &str) -> String {
    format!("chat_template.{name}.jinja")
}

/// The name of the chat template in a file that [`additional_chat_template_file`] named.
pub fn additional_chat_template_name(file: &str) -> Option<&str> {
    file.strip_prefix("chat_template.")?.strip_suffix(".jinja")
}

fn template_text(file: &str, bytes: Vec<u8>) -> Result<String, TextError> {
    String::from_utf8(bytes).map_err(|e| TextError::Template { why: format!("{file}: {e}") })
}

impl std::fmt::Debug for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Package").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

fn check_length(entry: &FileEntry, found: u64) -> Result<(), PackageError> {
    let (file, expected) = (|| entry.name.clone(), entry.bytes);
    match found.cmp(&expected) {
        Ordering::Less => Err(PackageError::Truncated { file: file(), expected, found }),
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(PackageError::TooLong { file: file(), expected }),
    }
}

fn check_hash(entry: &FileEntry, found: String) -> Result<(), PackageError> {
    if found == entry.sha256 {
        return Ok(());
    }
    Err(PackageError::Hash { file: entry.name.clone(), expected: entry.sha256.clone(), found })
}

/// The bytes of `range` of a file, fewer only where the file ends, also from a source that gives fewer at a time.
async fn read_fully(source: &(impl ByteSource + ?Sized), file: &str, range: Range<u64>) -> Result<Vec<u8>, SourceError> {
    let mut bytes = source.read(file, range.clone()).await?;
    while !bytes.is_empty() && range.start + (bytes.len() as u64) < range.end {
        let more = source.read(file, range.start + bytes.len() as u64..range.end).await?;
        if more.is_empty() {
            break;
        }
        bytes.extend(more);
    }
    Ok(bytes)
}

/// SHA-256 in lower-case hexadecimal, as manifests write it.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(digest: &[u8]) -> String {
    use std::fmt::Write;
    digest.iter().fold(String::with_capacity(2 * digest.len()), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
