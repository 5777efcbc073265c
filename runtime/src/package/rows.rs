//! [`TableRows`]: rows of a matrix, read where the package lies. Tables of which a token needs one row, and which are larger than
//! all the rest of a decoder, need not be in memory.

use super::{ByteSource, Package, PackageError, read_fully};
use haikuq_format::layout::{PlaneKind, dequantize, groups, plane_sizes};
use haikuq_format::manifest::{Plane, TensorEntry};
use haikuq_format::scheme::{Grouped, Offset, ScaleType, Scheme};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows of one tensor of a package.
pub struct TableRows {
    source: Arc<dyn ByteSource>,
    tensor: TensorEntry,
    /// Names of the package's shards.
    shards: Vec<String>,
    /// Read with the first row: all chunks have the same.
    codebook: Option<Vec<u32>>,
}

impl Package {
    /// The rows of a tensor, which stay readable when the package itself is gone.
    pub fn rows_of(&self, tensor: &str) -> Option<TableRows> {
        let tensor = self.manifest.tensors.iter().find(|t| t.name == tensor)?.clone();
        let shards = self.manifest.shards.iter().map(|s| s.name.clone()).collect();
        Some(TableRows { source: self.source.clone(), tensor, shards, codebook: None })
    }
}

impl TableRows {
    /// Numbers of a row.
    pub fn columns(&self) -> usize {
        self.tensor.columns()
    }

    /// Numbers of `rows`, one row after the other. A row that is asked for several times is read once.
    ///
    /// The shards' hashes are compared when a package is loaded, and not again here: nobody may change its files meanwhile.
    ///
    /// # Errors
    /// If a file cannot be read, or has become shorter.
    pub async fn read(&mut self, rows: &[u32]) -> Result<Vec<f32>, PackageError> {
        let columns = self.columns();
        let mut first = BTreeMap::new();
        let mut out = Vec::with_capacity(rows.len() * columns);
        for (i, row) in rows.iter().enumerate() {
            match first.get(row) {
                Some(at) => out.extend_from_within(at * columns..(at + 1) * columns),
                None => {
                    first.insert(*row, i);
                    out.extend(self.row(*row as usize).await?);
                }
            }
        }
        Ok(out)
    }

    async fn row(&mut self, row: usize) -> Result<Vec<f32>, PackageError> {
        let (scheme, columns) = (self.tensor.scheme, self.columns());
        let chunk = self.tensor.chunks.iter().find(|c| row >= c.first_row && row < c.first_row + c.rows);
        let Some(chunk) = chunk.cloned() else { return Ok(vec![0.0; columns]) };
        let row = row - chunk.first_row;
        let mut planes = Vec::with_capacity(chunk.planes.len());
        for (size, plane) in plane_sizes(scheme, 1, columns).iter().zip(&chunk.planes) {
            let words = match (plane.kind, scheme) {
                (PlaneKind::Codebook, _) => {
                    if self.codebook.is_none() {
                        self.codebook = Some(words(&self.bytes(plane, 0, plane.bytes).await?));
                    }
                    self.codebook.clone().unwrap_or_default()
                }
                (PlaneKind::Scales, Scheme::Grouped(g)) => self.scales(plane, g, row).await?,
                (PlaneKind::Offsets, Scheme::Grouped(g)) => {
                    let bits = if g.offset == Offset::U4 { 4 } else { 16 };
                    self.elements(plane, groups(columns, g.group), bits, row).await?
                }
                _ => words(&self.bytes(plane, (row * size.words) as u64 * 4, size.words as u64 * 4).await?),
            };
            planes.push((plane.kind, words));
        }
        let planes: Vec<_> = planes.iter().map(|(kind, words)| (*kind, words.as_slice())).collect();
        Ok(dequantize(scheme, 1, columns, &planes))
    }

    /// A row's scales, as a chunk of that row alone has them.
    async fn scales(&self, plane: &Plane, scheme: Grouped, row: usize) -> Result<Vec<u32>, PackageError> {
        let n = groups(self.columns(), scheme.group);
        if scheme.scale == ScaleType::F16 {
            return self.elements(plane, n, 16, row).await;
        }
        // Four rows share a word.
        let four = words(&self.bytes(plane, (row / 4 * n) as u64 * 4, n as u64 * 4).await?);
        Ok(four.iter().map(|word| word >> (row % 4 * 8) & 0xff).collect())
    }

    /// A row's `n` elements of 16 or 4 bits, of those of all rows one after the other.
    async fn elements(&self, plane: &Plane, n: usize, bits: usize, row: usize) -> Result<Vec<u32>, PackageError> {
        let (begin, end) = (row * n * bits, (row + 1) * n * bits);
        let bytes = self.bytes(plane, (begin / 8) as u64, (end.div_ceil(8) - begin / 8) as u64).await?;
        if begin.is_multiple_of(8) {
            return Ok(words(&bytes));
        }
        // The first is the high half of a byte.
        let nibble = |i: usize| u32::from(bytes.get(i / 2).map_or(0, |byte| byte >> (i % 2 * 4) & 15));
        Ok((0..n.div_ceil(8)).map(|word| (0..8).fold(0, |sum, i| sum | nibble(8 * word + i + 1) << (4 * i))).collect())
    }

    async fn bytes(&self, plane: &Plane, first: u64, bytes: u64) -> Result<Vec<u8>, PackageError> {
        let (file, begin) = (&self.shards[plane.shard], plane.offset + first);
        let found = read_fully(&*self.source, file, begin..begin + bytes).await?;
        if (found.len() as u64) < bytes {
            return Err(PackageError::Truncated {
                file: file.clone(),
                expected: begin + bytes,
                found: begin + found.len() as u64,
            });
        }
        Ok(found)
    }
}

/// Little-endian words; the last one is filled up with zeros.
fn words(bytes: &[u8]) -> Vec<u32> {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
    bytes.chunks(4).map(word).collect()
}
