//! [`TableRows`]: rows of a matrix, read where the package lies. Tables of which a token needs one row, and which are larger than
//! all the rest of a decoder, need not be in memory.

use super::{ByteSource, Package, PackageError, SourceFuture, read_fully};
use haikuq_format::layout::{PlaneKind, groups, plane_sizes};
use haikuq_format::manifest::{Plane, TensorEntry};
use haikuq_format::scheme::{Offset, ScaleType, Scheme};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;

/// Rows of one tensor of a package.
pub struct TableRows {
    source: Arc<dyn ByteSource>,
    tensor: TensorEntry,
    /// Names of the package's shards.
    shards: Vec<String>,
    /// Read with the first row: all chunks have the same.
    codebook: Option<Vec<u8>>,
}

impl Package {
    /// The rows of a tensor, which stay readable when the package itself is gone.
    pub fn rows_of(&self, tensor: &str) -> Option<TableRows> {
        let tensor = self.manifest.tensors.iter().find(|t| t.name == tensor)?.clone();
        let shards = self.manifest.shards.iter().map(|s| s.name.clone()).collect();
        Some(TableRows { source: self.source.clone(), tensor, shards, codebook: None })
    }
}

/// Bytes of each plane.
type Planes = Vec<(PlaneKind, Vec<u8>)>;

impl TableRows {
    /// How its numbers are stored.
    pub fn scheme(&self) -> Scheme {
        self.tensor.scheme
    }

    /// Rows that there are.
    pub fn len(&self) -> usize {
        self.tensor.rows()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers of a row.
    pub fn columns(&self) -> usize {
        self.tensor.columns()
    }

    /// The planes of a chunk of `rows` alone, as they are stored, in the order of
    /// [`plane_sizes`]; zeros in place of rows that there are not. All are asked for at once,
    /// and each but once.
    ///
    /// The shards' hashes are compared when a package is loaded, and not again here: nobody may change its files meanwhile.
    ///
    /// # Errors
    /// If a file cannot be read, or has become shorter.
    pub async fn gather(&mut self, rows: &[u32]) -> Result<Planes, PackageError> {
        let (scheme, columns) = (self.tensor.scheme, self.columns());
        let sizes = plane_sizes(scheme, rows.len(), columns);
        if self.codebook.is_none()
            && let Some(plane) = self.tensor.chunks[0].planes.iter().find(|p| p.kind == PlaneKind::Codebook)
        {
            self.codebook = Some(self.bytes(plane, 0..plane.bytes).await?);
        }
        let mut first = BTreeMap::new();
        let (mut places, mut waiting) = (Vec::new(), Vec::<SourceFuture<'_, Result<Vec<u8>, PackageError>>>::new());
        for (at, row) in rows.iter().enumerate() {
            let row = *row as usize;
            let Some(chunk) = self.tensor.chunks.iter().find(|c| row >= c.first_row && row < c.first_row + c.rows) else {
                continue;
            };
            let next = first.len();
            let number = *first.entry(row).or_insert(next);
            if number == next {
                for plane in chunk.planes.iter().filter(|p| p.kind != PlaneKind::Codebook) {
                    let bytes = Bits::of(scheme, plane.kind, columns).bytes(row - chunk.first_row);
                    waiting.push(Box::pin(self.bytes(plane, bytes)));
                }
            }
            places.push((at, row - chunk.first_row, number));
        }
        let found: Vec<Vec<u8>> = together(waiting).await.into_iter().collect::<Result<_, PackageError>>()?;

        let mut planes: Planes = sizes.iter().map(|size| (size.kind, vec![0; size.words * 4])).collect();
        // Each row that was asked for has an answer a plane.
        let count = sizes.iter().filter(|size| size.kind != PlaneKind::Codebook).count();
        for (at, row, number) in places {
            for ((kind, bytes), found) in planes.iter_mut().zip(&found[number * count..][..count]) {
                Bits::of(scheme, *kind, columns).copy(found, row, bytes, at);
            }
        }
        if let (Some(codebook), Some((PlaneKind::Codebook, bytes))) = (&self.codebook, planes.last_mut()) {
            bytes.clone_from(codebook);
        }
        Ok(planes)
    }

    async fn bytes(&self, plane: &Plane, range: Range<u64>) -> Result<Vec<u8>, PackageError> {
        let (file, range) = (&self.shards[plane.shard], plane.offset + range.start..plane.offset + range.end);
        let found = read_fully(&*self.source, file, range.clone()).await?;
        if (found.len() as u64) < range.end - range.start {
            let found = range.start + found.len() as u64;
            return Err(PackageError::Truncated { file: file.clone(), expected: range.end, found });
        }
        Ok(found)
    }
}

/// Where a row's numbers lie in a plane.
enum Bits {
    /// So many bits a row, a multiple of 4, one row after the other.
    InTurn(usize),
    /// Bytes of four rows make a word, so many words for them.
    FourRows(usize),
}

impl Bits {
    fn of(scheme: Scheme, kind: PlaneKind, columns: usize) -> Self {
        match (kind, scheme) {
            (PlaneKind::Scales, Scheme::Grouped(g)) if g.scale == ScaleType::E4M4 => Self::FourRows(groups(columns, g.group)),
            (PlaneKind::Scales, Scheme::Grouped(g)) => Self::InTurn(16 * groups(columns, g.group)),
            (PlaneKind::Offsets, Scheme::Grouped(g)) => {
                Self::InTurn(if g.offset == Offset::U4 { 4 } else { 16 } * groups(columns, g.group))
            }
            _ => Self::InTurn(
                plane_sizes(scheme, 1, columns).iter().filter(|size| size.kind == kind).map(|size| size.words * 32).sum(),
            ),
        }
    }

    /// The bytes of a plane that hold a row.
    fn bytes(&self, row: usize) -> Range<u64> {
        let (begin, end) = match self {
            Self::InTurn(bits) => (row * bits / 8, ((row + 1) * bits).div_ceil(8)),
            Self::FourRows(words) => (row / 4 * words * 4, (row / 4 + 1) * words * 4),
        };
        begin as u64..end as u64
    }

    /// Copies row `row`, from the `bytes` that hold it, to row `at` of a plane of zeros.
    fn copy(&self, bytes: &[u8], row: usize, plane: &mut [u8], at: usize) {
        match self {
            Self::FourRows(words) => {
                let to = plane[at / 4 * words * 4..].chunks_exact_mut(4);
                bytes.chunks_exact(4).zip(to).for_each(|(from, to)| to[at % 4] = from[row % 4]);
            }
            Self::InTurn(bits) if bits % 8 == 0 => plane[at * bits / 8..][..bits / 8].copy_from_slice(bytes),
            Self::InTurn(bits) => {
                // A row begins in the low or in the high half of a byte.
                let (first, to, n) = (row * bits / 4 % 2, at * bits / 4, bits / 4);
                for i in 0..n {
                    let half = bytes[(first + i) / 2] >> ((first + i) % 2 * 4) & 15;
                    plane[(to + i) / 2] |= half << ((to + i) % 2 * 4);
                }
            }
        }
    }
}

/// What all of `waiting` come to, which wait side by side.
async fn together<T>(mut waiting: Vec<SourceFuture<'_, T>>) -> Vec<T> {
    let mut found: Vec<Option<T>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, found) in waiting.iter_mut().zip(&mut found).filter(|(_, found)| found.is_none()) {
            if let Poll::Ready(answer) = future.as_mut().poll(context) {
                *found = Some(answer);
            }
        }
        if found.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    found.into_iter().flatten().collect()
}
