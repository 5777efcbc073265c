//! `rope_cache`: splits q, k and v, normalizes and rotates q and k, and writes k and v to the cache.

use super::attention::{AttentionShape, CpuCache, IDLE, Token};
use super::norm;
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel};
use haikuq_format::layout::padded;
use haikuq_format::spec::{Norm, NormKind, QkNorm, QueryScaling, RopeTable};

super::shader!(ROPE_CACHE = "rope_cache");

/// The rotary embedding of a layer; see [`RopeTable`].
#[derive(Clone, Debug)]
pub struct Rope<'a> {
    /// f32 \[rotated\]; for tokens of long sequences as many again.
    pub inv_freq: Binding<'a>,
    /// Number of inverse frequencies: half of the dimensions that rotate.
    pub rotated: u32,
    /// Multiplies sine and cosine.
    pub factor: f32,
}

/// Normalization of queries and keys.
#[derive(Clone, Debug)]
pub struct QkNormalization<'a> {
    /// Over each head or over all, and whether heads share their gains.
    pub kind: QkNorm,
    /// Whether they are rotated first.
    pub after_rope: bool,
    /// The norm of the decoder, from which [`QkNorm::norm`] makes that of queries and keys.
    pub norm: Norm,
    /// f32: gains of q, gains of k and, for norms that have them, biases of q and biases of k, one after the other with
    /// no padding ([`QkNorm::gains`] values each).
    pub parameters: Binding<'a>,
}

/// `q = rope(norm(q)); cache(token) = (rope(norm(k)), v)` for each of `num_tokens` tokens, or the norm after rope; queries may
/// grow with their position.
#[derive(Clone, Debug)]
pub struct RopeCache<'a> {
    /// Tokens of the step.
    pub num_tokens: u32,
    /// Heads and cache.
    pub shape: AttentionShape,
    /// No rotation where absent.
    pub rope: Option<Rope<'a>>,
    /// No normalization where absent.
    pub qk_norm: Option<QkNormalization<'a>>,
    /// How queries grow, if they do.
    pub query_scaling: Option<QueryScaling>,
    /// What a row has behind its queries: keys and values (2); keys, which are the values before norm and rope (1); or
    /// neither (0), and then the cache stays as it is.
    pub own_kv: u32,
    /// Added to the mean square by which values are divided, head by head; values stay where absent.
    pub value_norm: Option<f32>,
    /// f32 \[tokens\]\[qkv_stride\]: all query heads, all key heads, all value heads, and what may come after them.
    pub qkv: Binding<'a>,
    /// Values from one token's row of these to the next one's.
    pub qkv_stride: usize,
    /// [`Token`]s of the step.
    pub tokens: Binding<'a>,
    /// Page table, u32 \[sequences\]\[max_pages\].
    pub pages: Binding<'a>,
    /// f32 \[tokens\]\[padded(num_heads × head_dim)\]; padding becomes zero.
    pub q: Binding<'a>,
    /// Pool of keys.
    pub keys: Binding<'a>,
    /// Pool of values.
    pub values: Binding<'a>,
}

impl RopeCache<'_> {
    /// Binds the kernel.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Dispatch, GpuError> {
        let shape = self.shape;
        let wide = shape.head_dim > 256;
        let heads_at_once = (256 / shape.head_dim).max(1);
        let mut flags = shape.flags();
        flags.extend(wide.then_some(Flag::WideHeads));
        let mut constants = shape.constants();
        constants.extend([
            ("HEADS", shape.num_heads.into()),
            ("QKV_PITCH", self.qkv_stride as f64),
            ("Q_PITCH", (shape.pitch() / 4).into()),
            ("HEADS_AT_ONCE", heads_at_once.into()),
            ("OWN_KV", self.own_kv.into()),
        ]);
        let mut bindings = vec![
            (0, self.qkv.clone()),
            (1, self.tokens.clone()),
            (2, self.pages.clone()),
            (3, self.q.clone()),
            (4, self.keys.clone()),
            (5, self.values.clone()),
        ];
        if let Some(rope) = &self.rope {
            flags.push(Flag::Rope);
            constants.extend([("ROTATED", rope.rotated.into()), ("FACTOR", rope.factor.into())]);
            bindings.push((6, rope.inv_freq.clone()));
        }
        if let Some(qk_norm) = &self.qk_norm {
            flags.push(Flag::QkNorm);
            let norm = qk_norm.kind.norm(qk_norm.norm);
            flags.extend(norm.kind.is_centred().then_some(Flag::Layer));
            flags.extend(norm.kind.has_bias().then_some(Flag::Bias));
            constants.extend([
                ("WHOLE", f64::from(u8::from(qk_norm.kind == QkNorm::Whole))),
                ("SHARED_GAINS", f64::from(u8::from(qk_norm.kind == QkNorm::PerHead))),
                ("EPSILON", norm.epsilon.into()),
            ]);
            // Without a rotation there is no order.
            flags.extend((qk_norm.after_rope && self.rope.is_some()).then_some(Flag::NormAfterRope));
            bindings.push((7, qk_norm.parameters.clone()));
        }
        if let Some(scaling) = self.query_scaling {
            flags.push(Flag::QueryScaling);
            constants.extend(scaling_constants(scaling));
        }
        if let Some(epsilon) = self.value_norm {
            flags.push(Flag::ValueNorm);
            // That of the other norms.
            constants.retain(|(name, _)| *name != "EPSILON");
            constants.push(("EPSILON", epsilon.into()));
        }
        let kv_heads = if self.own_kv == 0 { 0 } else { 2 * shape.num_kv_heads };
        let groups = (shape.num_heads + kv_heads).div_ceil(heads_at_once);
        let grid = [groups, self.num_tokens, 1];
        Kernel { shader: &ROPE_CACHE, flags: &flags, constants: &constants, bindings: &bindings, grid }.bind(gpu)
    }
}

/// The constants of `query_scaling.wgsl`.
pub(super) fn scaling_constants(scaling: QueryScaling) -> [(&'static str, f64); 2] {
    [("BETA", scaling.beta.into()), ("ORIGINAL_CONTEXT", scaling.original_context as f64)]
}

/// A table's inverse frequencies as the kernel reads them: after its own those for long sequences.
pub fn frequencies(table: &RopeTable) -> Vec<f32> {
    let long = table.long.iter().flat_map(|l| &l.inv_freq);
    table.inv_freq.iter().chain(long).copied().collect()
}

/// Rotates `head` at the position of `token`: the angle rounded to f32 as every implementation computes it, the rest in f64.
pub fn rotate(rope: &RopeTable, token: &Token, head: &mut [f32]) {
    let inv_freq = rope.long.as_ref().filter(|_| token.long == 1).map_or(&rope.inv_freq, |l| &l.inv_freq);
    let n = inv_freq.len();
    for (i, inv_freq) in inv_freq.iter().enumerate() {
        let (sin, cos) = f64::from(token.position as f32 * inv_freq).sin_cos();
        let (sin, cos) = (sin * f64::from(rope.factor), cos * f64::from(rope.factor));
        let (a, b) = (f64::from(head[i]), f64::from(head[i + n]));
        head[i] = (a * cos - b * sin) as f32;
        head[i + n] = (b * cos + a * sin) as f32;
    }
}

/// Normalization of queries and keys for the CPU twin: kind, norm, and the parameters of [`QkNormalization`].
pub type CpuQkNorm<'a> = (QkNorm, Norm, &'a [f32]);

/// What becomes of queries and keys in the CPU twin.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuSteps<'a> {
    /// No rotation where absent.
    pub rope: Option<&'a RopeTable>,
    /// No normalization where absent.
    pub qk_norm: Option<CpuQkNorm<'a>>,
    /// Whether they are rotated first.
    pub norm_after_rope: bool,
    /// How queries grow, if they do.
    pub query_scaling: Option<QueryScaling>,
    /// Which of keys and values rows lack: 0 for none of them, 1 for values, 2 for both.
    pub lacks: u32,
    /// Added to the mean square by which values are divided.
    pub value_norm: Option<f32>,
}

/// The CPU twin: writes the cache and returns the queries, \[tokens\]\[padded(num_heads × head_dim)\].
pub fn cpu(cache: &mut CpuCache, steps: CpuSteps<'_>, tokens: &[Token], qkv: &[f32]) -> Vec<f32> {
    let CpuSteps { rope, qk_norm, norm_after_rope, query_scaling, lacks, value_norm } = steps;
    let shape = cache.shape;
    let (dim, pitch) = (shape.head_dim as usize, shape.pitch() as usize);
    let (q_size, k_size) = (shape.attention_size() as usize, shape.num_kv_heads as usize * dim);
    let mut queries = vec![0.0; tokens.len() * pitch];
    for (t, token) in tokens.iter().enumerate() {
        let width = shape.qkv_size() as usize - lacks as usize * k_size;
        let (q, rest) = qkv[t * padded(width)..][..width].split_at(q_size);
        let (k, v) = rest.split_at(k_size.min(rest.len()));
        let mut v = if lacks == 1 { k.to_vec() } else { v.to_vec() };
        let (mut q, mut k) = (q.to_vec(), k.to_vec());
        if let Some(epsilon) = value_norm {
            let norm = Norm { kind: NormKind::Rms, epsilon };
            v = v.chunks(dim).flat_map(|head| norm::cpu(norm, head, &vec![1.0; dim], &[])).collect();
        }
        let turn = |q: &mut Vec<f32>, k: &mut Vec<f32>| {
            if let Some(rope) = rope {
                q.chunks_mut(dim).chain(k.chunks_mut(dim)).for_each(|head| rotate(rope, token, head));
            }
        };
        if norm_after_rope {
            turn(&mut q, &mut k);
        }
        if let Some((kind, norm, parameters)) = qk_norm {
            let norm = kind.norm(norm);
            let [q_gains, k_gains] = [shape.num_heads, shape.num_kv_heads].map(|heads| kind.gains(heads as usize, dim));
            let k_gains = if lacks == 2 { 0 } else { k_gains };
            let (gains, biases) = parameters.split_at(q_gains + k_gains);
            let apply = |x: &mut Vec<f32>, first: usize, count: usize| {
                let run = if kind == QkNorm::Whole { x.len() } else { dim };
                let of_run = |all: &[f32], i: usize| {
                    let at = first + i * run % count;
                    all.get(at..at + run).unwrap_or(&[]).to_vec()
                };
                let norm = |(i, x): (usize, &[f32])| norm::cpu(norm, x, &of_run(gains, i), &of_run(biases, i));
                *x = x.chunks(run).enumerate().flat_map(norm).collect();
            };
            apply(&mut q, 0, q_gains);
            apply(&mut k, q_gains, k_gains);
        }
        if !norm_after_rope {
            turn(&mut q, &mut k);
        }
        if let Some(scaling) = query_scaling {
            q.iter_mut().for_each(|x| *x *= scaling.factor(token.position as usize));
        }
        queries[t * pitch..][..q_size].copy_from_slice(&q);
        if token.sequence != IDLE {
            for (head, (k, v)) in k.chunks(dim).zip(v.chunks(dim)).enumerate() {
                cache.set(token.sequence, token.position as usize, head, k, v);
            }
        }
    }
    queries
}
