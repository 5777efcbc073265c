//! Causal attention within windows: products of all heads at once, with their scores in memory for some windows at a time.

use super::product::{HeadProducts, Heads};
use super::{Accelerator, AcceleratorError, Matrix, shader};
use bytemuck::{Pod, Zeroable};
use haikuq_format::spec::Attention;
use haikuq_runtime::device::{Binding, grid_1d};

shader!(GATE_HEADS = "gate_heads");
shader!(SOFTMAX = "softmax");

/// Bytes of scores, at most.
const SCORE_BYTES: usize = 512 << 20;

/// Workgroups in the last dimension of a grid, at most.
const MAX_PRODUCTS: usize = 65_535;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SoftmaxParams {
    rows: u32,
    length: u32,
    pitch: u32,
    window: u32,
    scale: f32,
    cap: f32,
    beta: f32,
    original_context: u32,
}

impl Accelerator {
    /// Whether [`Accelerator::attend`] serves `attention` in so many windows of `length` positions.
    pub fn can_attend(&self, attention: &Attention, windows: usize, length: usize) -> bool {
        let scores = attention.num_heads * length * length.next_multiple_of(32) * 4;
        let whole = |columns| self.panel_rows(columns).is_ok_and(|rows| rows >= windows * length || rows.is_multiple_of(length));
        // Keys and values of the layer's own, as its rows make them.
        let plain = attention.own_kv() == 2 && !attention.value_norm;
        plain
            && attention.head_dim.is_multiple_of(16)
            && scores as u64 <= self.panel_bytes
            && attention.num_heads <= MAX_PRODUCTS
            && whole(attention.qkv_size())
            && whole(attention.attention_size())
    }

    /// Multiplies heads' outputs `[windows × length, attention_size]` with the sigmoids of the gates that `qkv` ends with.
    ///
    /// # Errors
    /// [`AcceleratorError::Gpu`] if the device failed.
    ///
    /// # Panics
    /// If sizes do not fit together, or there are no gates.
    pub fn gate_heads(&self, attended: &mut Matrix, qkv: &Matrix, attention: &Attention) -> Result<(), AcceleratorError> {
        let (columns, gates) = (attention.attention_size(), attention.gate_size());
        assert!(gates > 0 && attended.rows() == qkv.rows() && attended.columns() == columns);
        let first = attention.qkv_size() - gates;
        Self::for_common_rows(qkv, attended, |_, rows, [from, to]| {
            let params = [rows, columns, columns / gates, first, qkv.pitch(), attended.pitch(), 0, 0].map(|n| n as u32);
            let grid = [columns.div_ceil(256), rows.min(65_535), 1].map(|n| n as u32);
            self.run(&GATE_HEADS, &[], &params, &[(1, from), (2, to)], grid)
        })
    }

    /// What heads make of `qkv` `[windows × length, qkv_size]`, normalized and rotated, with queries that do not grow yet:
    /// `[windows × length, attention_size]`. `sinks` are as many scores as there are heads, or none.
    ///
    /// # Errors
    /// [`AcceleratorError::Memory`] if the result and the scores of a window take more than is left, [`AcceleratorError::Gpu`] if
    /// the device failed.
    ///
    /// # Panics
    /// If sizes do not fit together, or [`Accelerator::can_attend`] said no.
    pub fn attend(&self, qkv: &Matrix, attention: &Attention, sinks: &[f32], length: usize) -> Result<Matrix, AcceleratorError> {
        assert!(sinks.len() == if attention.sinks { attention.num_heads } else { 0 });
        assert!(qkv.columns() == attention.qkv_size() && qkv.rows().is_multiple_of(length));
        assert!(self.can_attend(attention, qkv.rows() / length, length));
        let Attention { num_heads: heads, num_kv_heads, head_dim, scale, softcap, window, query_scaling, .. } = *attention;
        let (q_size, kv_size) = (attention.attention_size(), attention.kv_size());
        let out = self.unwritten(qkv.rows(), q_size)?;
        let pitch = length.next_multiple_of(32);
        let room = SCORE_BYTES.min(self.panel_bytes as usize) / (heads * length * pitch * 4);
        let at_once = room.clamp(1, MAX_PRODUCTS / heads).min(qkv.rows() / length);
        let scores = self.unwritten(at_once * heads * length, length)?;
        let scores_at =
            Heads { buffer: scores.panel_of(0).1, pitch, first: 0, head: length * pitch, window: heads * length * pitch };
        // Without sinks, one whose exponential is 0.
        let sinks = if attention.sinks { sinks } else { &[-3e38] };
        let constants = [("SINKS", sinks.len() as f64)];
        let sinks = self.counted("sinks", sinks)?;
        let mut first = 0;
        while first < qkv.rows() {
            let ((from_first, from), (to_first, to)) = (qkv.panel_of(first), out.panel_of(first));
            let left = (from_first + qkv.panel_rows()).min(to_first + out.panel_rows()).min(qkv.rows()) - first;
            let windows = at_once.min(left / length);
            let part = |column: usize| Heads {
                buffer: from,
                pitch: qkv.pitch(),
                first: (first - from_first) * qkv.pitch() + column,
                head: head_dim,
                window: length * qkv.pitch(),
            };
            let shared_by = heads / num_kv_heads;
            let products = HeadProducts {
                a: part(0),
                b: part(q_size),
                b_by_term: false,
                c: scores_at,
                shared_by,
                heads,
                windows,
                rows: length,
                columns: length,
                terms: head_dim,
                causal_terms: false,
            };
            products.run(self)?;
            let rows = (windows * heads * length) as u32;
            let params = SoftmaxParams {
                rows,
                length: length as u32,
                pitch: pitch as u32,
                window: window.unwrap_or(length).min(length) as u32,
                scale,
                cap: softcap.unwrap_or(0.0),
                beta: query_scaling.map_or(0.0, |s| s.beta),
                original_context: query_scaling.map_or(1, |s| s.original_context) as u32,
            };
            let bindings = [(1, Binding::from(scores_at.buffer)), (2, sinks.buffer().into())];
            self.run(&SOFTMAX, &constants, &params, &bindings, grid_1d(rows))?;
            let weighed = HeadProducts {
                a: Heads { ..scores_at },
                b: part(q_size + kv_size),
                b_by_term: true,
                c: Heads {
                    buffer: to,
                    pitch: out.pitch(),
                    first: (first - to_first) * out.pitch(),
                    head: head_dim,
                    window: length * out.pitch(),
                },
                shared_by,
                heads,
                windows,
                rows: length,
                columns: head_dim,
                terms: length,
                causal_terms: true,
            };
            weighed.run(self)?;
            first += windows * length;
        }
        Ok(out)
    }
}
