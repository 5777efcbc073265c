//! [`States`]: what sequences keep of layers without keys and values, and how far back it reaches.
//!
//! A state covers a sequence up to its last position; unlike keys and values it cannot be cut anywhere. A convolution keeps
//! its last columns in a ring, so that a sequence may lose a few positions, as it does when steps ran ahead. For longer cuts, and
//! for the states of gated delta nets and Mamba mixers, there are snapshots: copies of a sequence's states at some lengths. A sequence is cut at
//! the last length at which its states are known, and the tokens after it are computed again.

use crate::device::{Gpu, GpuError};
use crate::kernels::{delta_net, mamba2, short_conv};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{LayerSpec, Mixer};

/// Snapshots of a sequence, at most. They are spread over it: the one goes whose neighbours are closest to each other.
const SNAPSHOTS: usize = 8;

/// Positions between two snapshots of a sequence that grows token by token, where every cut needs one.
const BETWEEN: usize = 32;

/// States of all layers that have such, for all rows of the page table.
pub(super) struct States {
    layers: Vec<Layer>,
    rows: Vec<Row>,
    /// Positions whose columns are needed where a sequence is cut without a snapshot; nothing where none can be.
    before: Option<usize>,
    /// Snapshots that nobody needs any more, to be used again.
    free: Vec<wgpu::Buffer>,
}

/// Nothing for layers with keys and values.
#[derive(Default)]
struct Layer {
    /// The last columns that go into a convolution.
    columns: Option<State>,
    /// The states of heads.
    matrices: Option<State>,
}

struct State {
    /// `[rows][bytes]`.
    buffer: wgpu::Buffer,
    /// Of one sequence.
    bytes: u64,
}

/// How far a sequence's states reach.
#[derive(Default)]
struct Row {
    len: usize,
    /// The first position whose columns are still there.
    first: usize,
    /// By rising length.
    snapshots: Vec<Snapshot>,
}

struct Snapshot {
    len: usize,
    first: usize,
    /// The states of all layers, one after the other.
    buffer: wgpu::Buffer,
}

/// Where a sequence's states can be taken up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Restart {
    /// As they are.
    Here,
    /// From a snapshot.
    Snapshot(usize),
    /// From nothing.
    Anew,
}

impl States {
    /// # Errors
    /// [`GpuError::Limit`] if a layer's do not fit into a buffer.
    pub(super) fn new(gpu: &Gpu, spec: &DecoderSpec, max_sequences: usize) -> Result<Self, GpuError> {
        let state = |numbers: usize| -> Result<Option<State>, GpuError> {
            let bytes = numbers as u64 * 4;
            let (needed, available) = (bytes * max_sequences as u64, gpu.profile.max_binding);
            if needed > available {
                let what = format!("what {max_sequences} sequences keep of a layer");
                return Err(GpuError::Limit { what, needed, limit: "maxStorageBufferBindingSize", available });
            }
            Ok(Some(State { buffer: gpu.storage("states", needed), bytes }))
        };
        let layer = |layer: &LayerSpec| {
            let mut kept = Layer::default();
            for mixer in layer.mixers() {
                match mixer {
                    Mixer::Attention(_) => {}
                    Mixer::ShortConv(conv) => kept.columns = state(short_conv::RING * conv.channels)?,
                    Mixer::DeltaNet(net) => {
                        (kept.columns, kept.matrices) = (state(delta_net::RING * net.channels())?, state(net.state_size())?);
                    }
                    Mixer::Mamba2(mamba) => {
                        (kept.columns, kept.matrices) = (state(mamba2::RING * mamba.channels())?, state(mamba.states_size())?);
                    }
                }
            }
            Ok(kept)
        };
        let layers: Vec<Layer> = spec.layers.iter().map(layer).collect::<Result<_, GpuError>>()?;
        let taps = spec.layers.iter().filter_map(|l| l.short_conv()).map(|conv| conv.kernel_size).max();
        let cannot = layers.iter().any(|l| l.matrices.is_some());
        // A convolution reads all of its positions but the current one.
        let before = taps.filter(|_| !cannot).map(|taps| taps - 1);
        let rows = (0..max_sequences).map(|_| Row::default()).collect();
        Ok(Self { layers, rows, before, free: Vec::new() })
    }

    /// The columns that a layer's convolution keeps.
    pub(super) fn columns(&self, layer: usize) -> &wgpu::Buffer {
        &self.layers[layer].columns.as_ref().unwrap_or_else(|| panic!("layer {layer} keeps no columns")).buffer
    }

    /// The states of a layer's heads.
    pub(super) fn matrices(&self, layer: usize) -> &wgpu::Buffer {
        &self.layers[layer].matrices.as_ref().unwrap_or_else(|| panic!("layer {layer} keeps no states")).buffer
    }

    fn all(&self) -> impl Iterator<Item = &State> {
        self.layers.iter().flat_map(|l| l.columns.iter().chain(&l.matrices))
    }

    /// Bytes of all states and snapshots.
    pub(super) fn bytes(&self) -> u64 {
        let snapshots = self.rows.iter().flat_map(|r| &r.snapshots).map(|s| &s.buffer).chain(&self.free);
        self.all().map(|s| s.buffer.size()).sum::<u64>() + snapshots.map(wgpu::Buffer::size).sum::<u64>()
    }

    fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    /// A sequence grew to `len` positions.
    pub(super) fn advance(&mut self, row: usize, len: usize) {
        let row = &mut self.rows[row];
        (row.len, row.first) = (len, row.first.max(len.saturating_sub(short_conv::RING)));
    }

    /// A row's sequence is gone.
    pub(super) fn clear(&mut self, row: usize) {
        let row = std::mem::take(&mut self.rows[row]);
        self.free.extend(row.snapshots.into_iter().map(|s| s.buffer));
    }

    /// Copies the states of a sequence that has grown by a token, now and then, if every cut needs a copy.
    pub(super) fn keep_some(&mut self, gpu: &Gpu, row: usize) {
        let last = self.rows[row].snapshots.last().map_or(0, |s| s.len);
        if self.before.is_none() && self.rows[row].len >= last + BETWEEN {
            self.keep(gpu, row);
        }
    }

    /// Copies a sequence's states as they are, for later cuts.
    pub(super) fn keep(&mut self, gpu: &Gpu, row: usize) {
        let (len, first) = (self.rows[row].len, self.rows[row].first);
        if self.is_empty() || len == 0 || self.rows[row].snapshots.iter().any(|s| s.len == len) {
            return;
        }
        let lengths: Vec<usize> = self.rows[row].snapshots.iter().map(|s| s.len).collect();
        if let Some(dispensable) = dispensable(&lengths, len) {
            self.free.push(self.rows[row].snapshots.remove(dispensable).buffer);
        }
        let bytes = self.all().map(|s| s.bytes).sum();
        let buffer = self.free.pop().unwrap_or_else(|| gpu.storage("states kept", bytes));
        self.copy(gpu, row, &buffer, true);
        let at = self.rows[row].snapshots.partition_point(|s| s.len < len);
        self.rows[row].snapshots.insert(at, Snapshot { len, first, buffer });
    }

    /// The most positions, `len` at most, at which a sequence's states are known.
    pub(super) fn reach(&self, row: usize, len: usize) -> usize {
        if self.is_empty() {
            return len;
        }
        let len = len.min(self.rows[row].len);
        match self.restart(row, len) {
            Restart::Here => len,
            Restart::Snapshot(i) => self.rows[row].snapshots[i].len,
            Restart::Anew => 0,
        }
    }

    /// Takes a sequence back to `len` positions, where its states are known.
    pub(super) fn cut(&mut self, gpu: &Gpu, row: usize, len: usize) {
        if self.is_empty() {
            return;
        }
        let restart = self.restart(row, len);
        let gone = self.rows[row].snapshots.partition_point(|s| s.len <= len);
        let gone = self.rows[row].snapshots.split_off(gone);
        self.free.extend(gone.into_iter().map(|s| s.buffer));
        let (len, first) = match restart {
            Restart::Here => (len, self.rows[row].first),
            Restart::Anew => (0, 0),
            Restart::Snapshot(i) => {
                let snapshot = &self.rows[row].snapshots[i];
                self.copy(gpu, row, &snapshot.buffer, false);
                (snapshot.len, snapshot.first)
            }
        };
        (self.rows[row].len, self.rows[row].first) = (len, first);
    }

    fn restart(&self, row: usize, len: usize) -> Restart {
        let row = &self.rows[row];
        // The columns before `len` that a convolution needs are there.
        if len == row.len || self.before.is_some_and(|before| len.saturating_sub(before) >= row.first) {
            return Restart::Here;
        }
        row.snapshots.iter().rposition(|s| s.len <= len).map_or(Restart::Anew, Restart::Snapshot)
    }

    fn copy(&self, gpu: &Gpu, row: usize, kept: &wgpu::Buffer, keep: bool) {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let mut at = 0;
        for State { buffer, bytes } in self.all() {
            let of_row = row as u64 * bytes;
            match keep {
                true => encoder.copy_buffer_to_buffer(buffer, of_row, kept, at, *bytes),
                false => encoder.copy_buffer_to_buffer(kept, at, buffer, of_row, *bytes),
            }
            at += bytes;
        }
        gpu.queue.submit([encoder.finish()]);
    }
}

/// Which of the snapshots at `lengths` makes room for one at `next`, where there are too many: the one whose neighbours are
/// closest together.
fn dispensable(lengths: &[usize], next: usize) -> Option<usize> {
    if lengths.len() < SNAPSHOTS {
        return None;
    }
    let gap = |i: usize| {
        let before = if i == 0 { 0 } else { lengths[i - 1] };
        lengths.get(i + 1).copied().unwrap_or(next).max(before) - before
    };
    (0..lengths.len()).min_by_key(|i| gap(*i))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_stay_spread_over_a_sequence() {
        let mut lengths: Vec<usize> = Vec::new();
        for next in (1..=64).map(|i| i * 100) {
            if let Some(i) = dispensable(&lengths, next) {
                lengths.remove(i);
            }
            lengths.push(next);
        }
        assert_eq!((lengths.len(), lengths.last()), (SNAPSHOTS, Some(&6400)));
        let widest = lengths.windows(2).map(|w| w[1] - w[0]).max().unwrap();
        assert!(widest <= 6400 / 2, "{lengths:?}");
    }
}
