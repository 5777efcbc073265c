//! The paged key/value cache: sequences of any length in pages of [`PAGE`] positions.
//!
//! Each layer has a pool of keys and a pool of values, `[page][kv_head][PAGE][head_dim]`, with pages of its own size. Layers that
//! keep the same positions (all of them, or those of one window) share a page table and have as many pages: a page belongs to one
//! sequence, in all of these layers, and a table row a sequence lists its pages in order. Pools start small and grow when they
//! are full, so memory follows use and nothing is sized for a context that nobody fills; see [`Pages`].

use super::DecoderError;
use super::pages::Pages;
use super::states::States;
use crate::device::{Gpu, GpuError};
use crate::kernels::attention::PAGE;
use haikuq_format::DecoderSpec;
use haikuq_format::spec::Attention;
use serde::{Deserialize, Serialize};

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CachePrecision {
    /// f16: packing and unpacking pairs of f16 is core WGSL, so every device can, `shader-f16` or not.
    #[default]
    Auto,
    /// 16-bit floats.
    F16,
    /// 32-bit floats: twice the memory, and nothing lost.
    F32,
}

impl CachePrecision {
    /// As it is written: `auto`, `f16` or `f32`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// Whether elements are f16.
    pub fn is_f16(self) -> bool {
        self != Self::F32
    }

    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        if self.is_f16() { 2 } else { 4 }
    }
}

/// Stands for a token that the GPU has chosen and the host does not know yet. No vocabulary has it.
const UNKNOWN: u32 = u32::MAX;

/// A sequence of tokens whose keys and values are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceId {
    pub(super) row: usize,
    // Tells a sequence from an earlier one in the same row.
    generation: u64,
}

#[derive(Debug)]
struct Sequence {
    generation: u64,
    /// The tokens whose keys and values it holds.
    ids: Vec<u32>,
    /// How many it is known to hold soon, where that is more.
    expected: usize,
    /// Whether its keys were rotated as those of long sequences are.
    long: bool,
}

/// Keys and values on the GPU, and who owns which page.
pub(super) struct KvCache {
    pub(super) precision: CachePrecision,
    /// Layers that keep the same positions.
    groups: Vec<Group>,
    /// By layer, its group and place in it; nothing without attention.
    places: Vec<Option<(usize, usize)>>,
    /// Pages in a row of a table.
    pub(super) max_pages: usize,
    /// What layers without keys and values keep.
    pub(super) states: States,
    max_context: usize,
    rows: Vec<Option<Sequence>>,
    next_generation: u64,
}

/// Layers that keep the same positions.
struct Group {
    pages: Pages,
    /// `table[row * max_pages + position / PAGE]`.
    table: wgpu::Buffer,
    /// Bytes of a page of keys, or of values, in each layer.
    page_bytes: Vec<u64>,
    /// Keys and values of each layer.
    pools: Vec<(wgpu::Buffer, wgpu::Buffer)>,
}

/// Where a layer's keys and values are.
#[derive(Clone, Copy)]
pub(super) struct LayerCache<'a> {
    /// Page table, u32 \[sequences\]\[max_pages\].
    pub(super) table: &'a wgpu::Buffer,
    /// Pool of keys.
    pub(super) keys: &'a wgpu::Buffer,
    /// Pool of values.
    pub(super) values: &'a wgpu::Buffer,
}

impl KvCache {
    pub(super) fn new(
        gpu: &Gpu,
        spec: &DecoderSpec,
        precision: CachePrecision,
        max_sequences: usize,
        max_context: usize,
    ) -> Result<Self, GpuError> {
        let max_pages = max_context.div_ceil(PAGE);
        let mut groups: Vec<Group> = Vec::new();
        let mut places: Vec<Option<(usize, usize)>> = Vec::with_capacity(spec.num_layers());
        let mut place = |attention: &Attention| {
            let window = attention.window.filter(|window| *window < max_context);
            let group = groups.iter().position(|g| g.pages.window() == window).unwrap_or_else(|| {
                let table = gpu.storage("page table", (max_sequences * max_pages * 4) as u64);
                groups.push(Group { pages: Pages::new(window, max_sequences), table, page_bytes: vec![], pools: vec![] });
                groups.len() - 1
            });
            let page_bytes = &mut groups[group].page_bytes;
            page_bytes.push((attention.kv_size() * PAGE) as u64 * precision.bytes());
            (group, page_bytes.len() - 1)
        };
        for layer in &spec.layers {
            // A layer that sees another one's has none of its own.
            let placed = layer.attention().and_then(|a| a.kv_from.map_or_else(|| Some(place(a)), |from| places[from]));
            places.push(placed);
        }
        for group in &mut groups {
            group.grow(gpu, 1, max_pages.min(8))?;
        }
        Ok(Self {
            precision,
            groups,
            places,
            max_pages,
            states: States::new(gpu, spec, max_sequences)?,
            max_context,
            rows: (0..max_sequences).map(|_| None).collect(),
            next_generation: 0,
        })
    }

    /// Where a layer's keys and values are.
    pub(super) fn layer(&self, layer: usize) -> LayerCache<'_> {
        let (group, place) = self.places[layer].unwrap_or_else(|| panic!("layer {layer} has no keys and values"));
        let Group { table, pools, .. } = &self.groups[group];
        let (keys, values) = &pools[place];
        LayerCache { table, keys, values }
    }

    /// Positions that a sequence may have before pools must grow, if there is no other.
    pub(super) fn unshared_positions(&self) -> usize {
        let pages = self.groups.iter().map(|g| g.pages.total()).min().unwrap_or(self.max_pages);
        (pages * PAGE).min(self.max_context)
    }

    /// Makes a sequence look as if it had `len` positions, or as many as may be, by taking its pages again and again: for
    /// measurements, which do not care what is in them. Returns the number.
    pub(super) fn stretch(&self, gpu: &Gpu, id: SequenceId, len: usize) -> Result<usize, DecoderError> {
        self.sequence(id)?;
        let len = len.min(self.max_context);
        for Group { pages, table, .. } in &self.groups {
            let row: Vec<u32> = pages.of(id.row).cycle().take(len.div_ceil(PAGE)).collect();
            gpu.write(table, (id.row * self.max_pages * 4) as u64, &row);
        }
        Ok(len)
    }

    /// Bytes of all pools and states.
    pub(super) fn bytes(&self) -> u64 {
        self.groups.iter().map(Group::bytes).sum::<u64>() + self.states.bytes()
    }

    pub(super) fn create(&mut self) -> Result<SequenceId, DecoderError> {
        let row = self.rows.iter().position(Option::is_none).ok_or(DecoderError::TooManySequences(self.rows.len()))?;
        self.next_generation += 1;
        self.rows[row] = Some(Sequence { generation: self.next_generation, ids: Vec::new(), expected: 0, long: false });
        Ok(SequenceId { row, generation: self.next_generation })
    }

    pub(super) fn remove(&mut self, id: SequenceId) -> Result<(), DecoderError> {
        self.sequence(id)?;
        self.forget(id.row);
        self.rows[id.row] = None;
        Ok(())
    }

    pub(super) fn len(&self, id: SequenceId) -> Result<usize, DecoderError> {
        Ok(self.sequence(id)?.ids.len())
    }

    /// Forgets the positions from `len` on, or from where states are known; their pages can be used again. Returns how many
    /// are left.
    pub(super) fn truncate(&mut self, gpu: &Gpu, id: SequenceId, len: usize) -> Result<usize, DecoderError> {
        let have = self.len(id)?;
        if len >= have {
            return Ok(have);
        }
        let len = self.reach(id.row, len);
        self.states.cut(gpu, id.row, len);
        self.groups.iter_mut().for_each(|g| g.pages.cut(id.row, len));
        let sequence = self.sequence_mut(id)?;
        sequence.ids.truncate(len);
        sequence.expected = sequence.expected.min(len);
        Ok(len)
    }

    /// The most positions, `len` at most, at which all layers can go on.
    fn reach(&self, row: usize, len: usize) -> usize {
        let reached = self.groups.iter().fold(self.states.reach(row, len), |len, group| group.pages.reach(row, len));
        if reached == len { len } else { self.reach(row, reached) }
    }

    /// Remembers the states of a sequence that has grown by a token, now and then.
    pub(super) fn keep_some_states(&mut self, gpu: &Gpu, id: SequenceId) {
        self.states.keep_some(gpu, id.row);
    }

    /// Remembers a sequence's states and windows, so that it can be cut here later.
    pub(super) fn keep_states(&mut self, gpu: &Gpu, id: SequenceId) -> Result<(), DecoderError> {
        self.sequence(id)?;
        self.states.keep(gpu, id.row);
        self.groups.iter_mut().for_each(|g| g.pages.keep(id.row));
        Ok(())
    }

    /// Makes room for positions up to `len`. True if the pools were replaced, so that bindings to them are stale.
    pub(super) fn reserve(&mut self, gpu: &Gpu, id: SequenceId, len: usize) -> Result<bool, DecoderError> {
        if len > self.max_context {
            return Err(DecoderError::ContextOverflow { needed: len, limit: self.max_context });
        }
        self.sequence(id)?;
        let mut grew = false;
        for group in &mut self.groups {
            if let Some((needed, wanted)) = group.pages.make_room(id.row, len, self.max_pages) {
                group.grow(gpu, needed, wanted)?;
                grew = true;
            }
            let (first, pages) = group.pages.take(id.row, len);
            if !pages.is_empty() {
                gpu.write(&group.table, ((id.row * self.max_pages + first) * 4) as u64, &pages);
            }
        }
        Ok(grew)
    }

    /// Marks the positions of `tokens` as written.
    pub(super) fn advance(&mut self, id: SequenceId, tokens: &[u32]) -> Result<(), DecoderError> {
        let ids = &mut self.sequence_mut(id)?.ids;
        ids.extend_from_slice(tokens);
        let len = ids.len();
        self.states.advance(id.row, len);
        self.groups.iter_mut().for_each(|g| g.pages.advance(id.row, len));
        Ok(())
    }

    /// Marks one more position as written, by a token that is not known yet; see [`KvCache::learn`].
    pub(super) fn advance_unknown(&mut self, id: SequenceId) -> Result<(), DecoderError> {
        self.advance(id, &[UNKNOWN])
    }

    /// Says which token was written `behind` positions before the end. A sequence that was removed or truncated since has
    /// nothing to learn.
    pub(super) fn learn(&mut self, id: SequenceId, behind: usize, token: u32) {
        let Ok(sequence) = self.sequence_mut(id) else { return };
        let at = sequence.ids.len().checked_sub(behind);
        if let Some(entry) = at.and_then(|at| sequence.ids.get_mut(at)).filter(|entry| **entry == UNKNOWN) {
            *entry = token;
        }
    }

    /// Notes that a sequence is going to have `len` positions.
    pub(super) fn expect(&mut self, id: SequenceId, len: usize) -> Result<(), DecoderError> {
        self.sequence_mut(id)?.expected = len;
        Ok(())
    }

    /// Whether a sequence's keys are rotated as those of long ones are.
    pub(super) fn is_long(&self, id: SequenceId) -> Result<bool, DecoderError> {
        Ok(self.sequence(id)?.long)
    }

    /// Makes a sequence a long one, or one that is not, if that is what `len` positions (or those that are expected) make
    /// it where longer ones than `beyond` are long. Returns the tokens that have to be computed anew for it.
    pub(super) fn set_length(&mut self, id: SequenceId, len: usize, beyond: usize) -> Result<Vec<u32>, DecoderError> {
        let sequence = self.sequence_mut(id)?;
        let long = len.max(sequence.expected) > beyond;
        if sequence.long == long {
            return Ok(Vec::new());
        }
        sequence.long = long;
        let ids = std::mem::take(&mut sequence.ids);
        self.forget(id.row);
        Ok(ids)
    }

    /// Forgets all that layers keep of a sequence.
    fn forget(&mut self, row: usize) {
        self.states.clear(row);
        self.groups.iter_mut().for_each(|g| g.pages.clear(row));
    }

    fn sequence(&self, id: SequenceId) -> Result<&Sequence, DecoderError> {
        match &self.rows[id.row] {
            Some(s) if s.generation == id.generation => Ok(s),
            _ => Err(DecoderError::NoSuchSequence),
        }
    }

    fn sequence_mut(&mut self, id: SequenceId) -> Result<&mut Sequence, DecoderError> {
        match &mut self.rows[id.row] {
            Some(s) if s.generation == id.generation => Ok(s),
            _ => Err(DecoderError::NoSuchSequence),
        }
    }
}

impl Group {
    fn bytes(&self) -> u64 {
        self.page_bytes.iter().sum::<u64>() * self.pages.total() as u64 * 2
    }

    /// Makes pools of `wanted` pages, or of fewer where these do not fit into a buffer.
    fn grow(&mut self, gpu: &Gpu, needed: usize, wanted: usize) -> Result<(), GpuError> {
        let pages = wanted.min((largest_pool(gpu).0 / self.largest_page()) as usize).max(needed);
        let pools = self.allocate(gpu, pages)?;
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        for ((old, new), page_bytes) in self.pools.iter().zip(&pools).zip(&self.page_bytes) {
            let used = page_bytes * self.pages.total() as u64;
            encoder.copy_buffer_to_buffer(&old.0, 0, &new.0, 0, used);
            encoder.copy_buffer_to_buffer(&old.1, 0, &new.1, 0, used);
        }
        gpu.queue.submit([encoder.finish()]);
        self.pools = pools;
        self.pages.grow(pages);
        Ok(())
    }

    fn largest_page(&self) -> u64 {
        self.page_bytes.iter().copied().max().unwrap_or(0).max(1)
    }

    fn allocate(&self, gpu: &Gpu, pages: usize) -> Result<Vec<(wgpu::Buffer, wgpu::Buffer)>, GpuError> {
        let (needed, (available, limit)) = (pages as u64 * self.largest_page(), largest_pool(gpu));
        if needed > available {
            let what = format!("the key/value cache for {} positions", pages * PAGE);
            return Err(GpuError::Limit { what, needed, limit, available });
        }
        let pool = |label, page_bytes| gpu.storage(label, pages as u64 * page_bytes);
        Ok(self.page_bytes.iter().map(|&bytes| (pool("keys", bytes), pool("values", bytes))).collect())
    }
}

/// Bytes that a pool may have, and the limit that says so.
fn largest_pool(gpu: &Gpu) -> (u64, &'static str) {
    let (binding, buffer) = (gpu.profile.max_binding, gpu.profile.max_buffer);
    if binding <= buffer { (binding, "maxStorageBufferBindingSize") } else { (buffer, "maxBufferSize") }
}
