//! What the attention kernels share: the paged cache, the shape of the heads, and their CPU twin.

use crate::device::{Binding, Flag};
use haikuq_format::layout::padded;
use half::f16;

/// Tokens in a page of the cache.
pub const PAGE: usize = 64;

/// Widest head of attention that kernels are for.
pub const MAX_HEAD_DIM: u32 = 512;

/// The [`Token::sequence`] of a token that takes no part in a step: nothing is written to the cache for it and its
/// results are zeros. A graph made for more tokens than there are is filled up with such tokens, at its end.
pub const IDLE: u32 = u32::MAX;

/// Where a token of a step stands.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Token {
    /// Its id in the vocabulary.
    pub id: u32,
    /// Its position in its sequence, from 0.
    pub position: u32,
    /// Its row of the page table, or [`IDLE`].
    pub sequence: u32,
    /// 1 where it is rotated as long sequences are, else 0; see [`haikuq_format::spec::LongRope`].
    pub long: u32,
}

impl Token {
    /// A token that takes no part in a step.
    pub const IDLE: Self = Self { id: 0, position: 0, sequence: IDLE, long: 0 };
}

/// Heads and cache of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub num_heads: u32,
    /// Key/value heads; divides `num_heads`.
    pub num_kv_heads: u32,
    /// Width of a head: a multiple of 4, from 4 to [`MAX_HEAD_DIM`].
    pub head_dim: u32,
    /// Pages in a row of the page table.
    pub max_pages: u32,
    /// Whether the cache holds f16, and not f32.
    pub cache_f16: bool,
}

impl AttentionShape {
    /// Query heads that share a key/value head.
    pub fn group(&self) -> u32 {
        self.num_heads / self.num_kv_heads
    }

    /// Bytes of one page of keys, or of values.
    pub fn page_bytes(&self) -> u64 {
        let elements = self.num_kv_heads as u64 * PAGE as u64 * self.head_dim as u64;
        elements * if self.cache_f16 { 2 } else { 4 }
    }

    /// Width of the concatenated query heads.
    pub fn attention_size(&self) -> u32 {
        self.num_heads * self.head_dim
    }

    /// Width of a row of queries, keys and values.
    pub fn qkv_size(&self) -> u32 {
        (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
    }

    /// f32 values from one token's queries (or attention output) to the next one's.
    pub fn pitch(&self) -> u32 {
        padded(self.attention_size() as usize) as u32
    }

    /// Index in a pool of element 0 of `head` at `position` of `sequence`.
    fn element(&self, pages: &[u32], sequence: u32, position: usize, head: usize) -> usize {
        let page = pages[sequence as usize * self.max_pages as usize + position / PAGE] as usize;
        ((page * self.num_kv_heads as usize + head) * PAGE + position % PAGE) * self.head_dim as usize
    }

    /// The constants of `shared/cache.wgsl`.
    pub(super) fn constants(&self) -> Vec<(&'static str, f64)> {
        vec![("HEAD_DIM", self.head_dim.into()), ("KV_HEADS", self.num_kv_heads.into()), ("MAX_PAGES", self.max_pages.into())]
    }

    /// The flags of `shared/cache.wgsl`.
    pub(super) fn flags(&self) -> Vec<Flag> {
        if self.cache_f16 { vec![Flag::CacheF16, Flag::F16] } else { Vec::new() }
    }
}

/// How scores come from `q·k`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// Multiplies `q·k`.
    pub scale: f32,
    /// How many last positions are seen, the token's own included; all where absent.
    pub window: Option<u32>,
    /// Scores become `cap × tanh(score / cap)`.
    pub softcap: Option<f32>,
}

impl Scores {
    /// The constants of `shared/attention_score.wgsl`.
    pub(super) fn constants(&self) -> [(&'static str, f64); 3] {
        [
            ("SCALE", self.scale.into()),
            ("WINDOW", self.window.unwrap_or(0).into()),
            ("SOFTCAP", self.softcap.unwrap_or(0.0).into()),
        ]
    }

    /// First position that a token at `position` sees.
    fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |w| (position + 1).saturating_sub(w as usize))
    }
}

/// The buffers of an attention kernel.
#[derive(Clone, Debug)]
pub struct AttentionBuffers<'a> {
    /// Rotated queries, f32 \[tokens\]\[padded(num_heads × head_dim)\].
    pub q: Binding<'a>,
    /// [`Token`]s of the step.
    pub tokens: Binding<'a>,
    /// Page table, u32 \[sequences\]\[max_pages\].
    pub pages: Binding<'a>,
    /// Pool of keys, \[page\]\[kv_head\]\[[`PAGE`]\]\[head_dim\].
    pub keys: Binding<'a>,
    /// Pool of values, like `keys`.
    pub values: Binding<'a>,
    /// A score of each head that joins its softmax, f32 \[num_heads\], where there are such.
    pub sinks: Option<Binding<'a>>,
    /// Output, f32 \[tokens\]\[padded(num_heads × head_dim)\]; padding becomes zero.
    pub output: Binding<'a>,
}

impl<'a> AttentionBuffers<'a> {
    /// What a kernel that divides by sums of weights binds, beside `others`, and is told by a flag.
    pub(super) fn with_sinks(&self, others: &[&Binding<'a>]) -> (Vec<(u32, Binding<'a>)>, Option<Flag>) {
        let bindings = (0..).zip(others.iter().map(|b| (*b).clone()));
        (bindings.chain(self.sinks.clone().map(|sinks| (SINKS, sinks))).collect(), self.sinks.as_ref().map(|_| Flag::Sinks))
    }
}

/// Where `shared/attention_score.wgsl` has the sinks.
const SINKS: u32 = 8;

/// A cache in main memory, for the CPU twins.
#[derive(Clone, Debug)]
pub struct CpuCache {
    /// Heads and pages.
    pub shape: AttentionShape,
    /// Page table, \[sequences\]\[max_pages\].
    pub pages: Vec<u32>,
    /// Keys, already rounded where the cache is f16.
    pub keys: Vec<f32>,
    /// Values, likewise.
    pub values: Vec<f32>,
    /// A score of each query head that joins its softmax, or none.
    pub sinks: Vec<f32>,
}

impl CpuCache {
    /// A cache of zeros with `num_pages` pages.
    pub fn new(shape: AttentionShape, pages: Vec<u32>, num_pages: usize) -> Self {
        let n = num_pages * shape.num_kv_heads as usize * PAGE * shape.head_dim as usize;
        Self { shape, pages, keys: vec![0.0; n], values: vec![0.0; n], sinks: vec![] }
    }

    /// Key and value of `head` at `position` of `sequence`.
    pub fn get(&self, sequence: u32, position: usize, head: usize) -> (&[f32], &[f32]) {
        let at = self.shape.element(&self.pages, sequence, position, head);
        let range = at..at + self.shape.head_dim as usize;
        (&self.keys[range.clone()], &self.values[range])
    }

    /// Writes key and value of `head` at `position` of `sequence`, rounded as the cache stores them.
    pub fn set(&mut self, sequence: u32, position: usize, head: usize, key: &[f32], value: &[f32]) {
        let at = self.shape.element(&self.pages, sequence, position, head);
        let range = at..at + self.shape.head_dim as usize;
        let rounded = |x: &f32| if self.shape.cache_f16 { f16::from_f32(x.clamp(-65504.0, 65504.0)).to_f32() } else { *x };
        self.keys[range.clone()].iter_mut().zip(key).for_each(|(to, x)| *to = rounded(x));
        self.values[range].iter_mut().zip(value).for_each(|(to, x)| *to = rounded(x));
    }
}

/// The CPU twin of `attention_decode` and of `attention_prefill`: from `q` \[tokens\]\[padded(num_heads × head_dim)\] to
/// an output of the same shape, in f64.
pub fn cpu(scores: Scores, cache: &CpuCache, tokens: &[Token], q: &[f32]) -> Vec<f32> {
    let shape = cache.shape;
    let (dim, pitch) = (shape.head_dim as usize, shape.pitch() as usize);
    let mut output = vec![0.0; tokens.len() * pitch];
    for (t, token) in tokens.iter().enumerate().filter(|(_, token)| token.sequence != IDLE) {
        for head in 0..shape.num_heads as usize {
            let at = t * pitch + head * dim;
            let seen = scores.first_seen(token.position as usize)..=token.position as usize;
            let rows: Vec<_> = seen.map(|p| cache.get(token.sequence, p, head / shape.group() as usize)).collect();
            let logit = |key: &[f32]| {
                let dot: f64 = q[at..at + dim].iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                let score = f64::from(scores.scale) * dot;
                scores.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
            };
            let logits: Vec<f64> = rows.iter().map(|(key, _)| logit(key)).collect();
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = logits.iter().map(|l| (l - largest).exp()).collect();
            let sink = cache.sinks.get(head).map_or(0.0, |sink| (f64::from(*sink) - largest).exp());
            let total: f64 = weights.iter().sum::<f64>() + sink;
            for d in 0..dim {
                let sum: f64 = weights.iter().zip(&rows).map(|(w, (_, value))| w * f64::from(value[d])).sum();
                output[at + d] = (sum / total) as f32;
            }
        }
    }
    output
}
