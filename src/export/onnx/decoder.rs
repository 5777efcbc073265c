//! A decoder as a graph: the canonical tensors of a package, and what is computed with them.
//!
//! Tensors are called as the class calls its own, with `_Q4` or `_Q8`, `_scales` and `_zp` behind where they are quantized.

use super::super::ExportError;
use super::super::class::Class;
use super::graph::{Dimension, Graph, MICROSOFT, Told, code, refused};
use super::matrix::{Matrix, Rows};
use crate::architecture::{Layout, Order};
use crate::checkpoint::RowOrder;
use crate::reference::stored::StoredWeights;
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{
    Activation, Attention, LayerSpec, Mixer, Mlp, Norm, NormKind, QkNorm, QueryScaling, Residual, RopeTable,
};

/// A tensor of the model that has numbers of the package.
#[derive(Clone, Debug)]
pub(super) struct Written {
    /// Its name, or the beginning of the names of codes, scales and zero points.
    pub(super) name: String,
    pub(super) canonical: String,
    pub(super) rows: Rows,
    /// Whether rows and columns are exchanged.
    pub(super) transposed: bool,
}

/// The residual stream: a sum, and what is to be added to it.
struct Stream {
    sum: String,
    rest: Option<String>,
}

/// Builds the graph of a class's decoder.
pub(super) struct Builder<'a, 'd> {
    pub(super) graph: Graph<'d>,
    layout: &'a Layout,
    weights: &'a StoredWeights,
    pub(super) written: Vec<Written>,
}

impl<'a, 'd> Builder<'a, 'd> {
    pub(super) fn new(graph: Graph<'d>, class: &'a Class, weights: &'a StoredWeights) -> Self {
        Self { graph, layout: &class.layout, weights, written: Vec::new() }
    }

    fn spec(&self) -> &'a DecoderSpec {
        &self.layout.spec
    }

    /// The whole model.
    pub(super) fn build(&mut self) -> Result<(), ExportError> {
        let spec = self.spec();
        let floats = self.graph.floats.code();
        let (batch, length, all) = ("batch_size", "sequence_length", "total_sequence_length");
        let called = Dimension::Called;
        let ids = self.graph.input("input_ids", code::I64, &[called(batch), called(length)]);
        let mask = self.graph.input("attention_mask", code::I64, &[called(batch), called(all)]);
        for (i, a) in spec.attentions().enumerate() {
            for part in ["key", "value"] {
                let (heads, width) = (Dimension::Of(a.num_kv_heads), Dimension::Of(a.head_dim));
                let name = format!("past_key_values.{i}.{part}");
                self.graph.input(&name, floats, &[called(batch), heads, called("past_sequence_length"), width]);
            }
        }
        self.graph.output("logits", floats, &[called(batch), called(length), Dimension::Of(spec.vocab_size)]);
        for (i, a) in spec.attentions().enumerate() {
            for part in ["key", "value"] {
                let (heads, width) = (Dimension::Of(a.num_kv_heads), Dimension::Of(a.head_dim));
                self.graph.output(&format!("present.{i}.{part}"), floats, &[called(batch), heads, called(all), width]);
            }
        }
        let lengths = self.lengths(&mask)?;
        let embedding = Matrix::read(self.weights, "embedding")?;
        let mut stream = Stream { sum: self.embed(&embedding, &ids, &lengths)?, rest: None };
        let head_of_embedding = spec.tied_head.then_some(embedding);
        for (i, layer) in spec.layers.iter().enumerate() {
            self.layer(i, layer, &mut stream, &lengths)?;
        }
        let normalized = self.norm_of(&mut stream, "final_norm")?;
        self.head(head_of_embedding, &normalized)?;
        self.graph.call_last("logits");
        Ok(())
    }

    /// Positions of each sequence without its last, and of the longest one: as `GroupQueryAttention` takes them.
    fn lengths(&mut self, mask: &str) -> Result<[String; 2], ExportError> {
        let graph = &mut self.graph;
        let name = |op: &str| format!("/model/attn_mask_reformat/{op}");
        let (axis, list) = (graph.int(1)?, graph.ints(&[1])?);
        let sum = graph.node(("", "ReduceSum"), &name("ReduceSum"), &[mask, &list], &[("keepdims", Told::Int(0))]);
        let last = graph.plain("Sub", &name("Sub"), &[&sum, &list]);
        let to = [("to", Told::Int(code::I32.into()))];
        let last = graph.node(("", "Cast"), &name("Sub/Cast"), &[&last], &to);
        let shape = graph.plain("Shape", &name("Shape"), &[mask]);
        let all = graph.node(("", "Gather"), &name("Gather"), &[&shape, &axis], &[("axis", Told::Int(0))]);
        let all = graph.node(("", "Cast"), &name("Gather/Cast"), &[&all], &to);
        Ok([last, all])
    }

    /// The first numbers of the residual stream.
    fn embed(&mut self, matrix: &Matrix, ids: &str, lengths: &[String; 2]) -> Result<String, ExportError> {
        let spec = self.spec();
        let module = self.own_name("embedding");
        let path = path_of(&module);
        let mut x = match matrix {
            Matrix::Floats { .. } => {
                let table = self.floats("embedding", &module, matrix, Rows::From(0, spec.vocab_size), false)?;
                let gathered = self.graph.plain("Gather", &format!("{path}/Gather"), &[&table, ids]);
                self.cast(&path, matrix, gathered)
            }
            Matrix::Codes(codes) => {
                if codes.columns != codes.blocks * codes.block {
                    let why = format!("its rows of {} weights are no whole blocks of {}", codes.columns, codes.block);
                    return Err(refused(module, why));
                }
                let flat = codes.columns * codes.bits as usize / 8;
                let [mut table, scales, zeros] = self.codes("embedding", &module, matrix, Rows::From(0, spec.vocab_size))?;
                let shape = self.graph.ints(&[spec.vocab_size as i64, flat as i64])?;
                table = self.graph.plain("Reshape", &format!("{path}/Reshape"), &[&table, &shape]);
                let told = [
                    ("bits", Told::Int(codes.bits.into())),
                    ("block_size", Told::Int(codes.block as i64)),
                    ("gather_axis", Told::Int(0)),
                    ("quantize_axis", Told::Int(1)),
                ];
                let op = (MICROSOFT, "GatherBlockQuantized");
                let inputs: Vec<&str> =
                    [table.as_str(), ids, &scales, &zeros].into_iter().filter(|name| !name.is_empty()).collect();
                self.graph.node(op, &format!("{path}/GatherBlockQuantized"), &inputs, &told)
            }
        };
        if spec.embedding_multiplier != 1.0 {
            let by = self.graph.number(spec.embedding_multiplier)?;
            x = self.graph.plain("Mul", &format!("{path}/Mul"), &[&x, &by]);
        }
        if spec.learned_positions {
            x = self.add_positions(&x, lengths)?;
        }
        Ok(x)
    }

    /// Adds the rows of a table of positions.
    fn add_positions(&mut self, x: &str, lengths: &[String; 2]) -> Result<String, ExportError> {
        let (module, spec) = (self.own_name("positions"), self.spec());
        let path = path_of(&module);
        let matrix = Matrix::Floats { columns: spec.hidden_size, half: false, numbers: self.weights.read("positions")? };
        let table = self.floats("positions", &module, &matrix, Rows::From(0, spec.max_context), false)?;
        let [_, positions] = self.positions(&path, lengths)?;
        let rows = self.graph.plain("Gather", &format!("{path}/Gather"), &[&table, &positions]);
        Ok(self.graph.plain("Add", &format!("{path}/Add"), &[x, &rows]))
    }

    /// The position of the first new token, and those of all new tokens.
    fn positions(&mut self, path: &str, [_, all]: &[String; 2]) -> Result<[String; 2], ExportError> {
        let graph = &mut self.graph;
        let (one, name) = (graph.int(1)?, |op: &str| format!("{path}/positions/{op}"));
        let end = graph.node(("", "Cast"), &name("Cast"), &[all], &[("to", Told::Int(code::I64.into()))]);
        let shape = graph.plain("Shape", &name("Shape"), &["input_ids"]);
        let new = graph.node(("", "Gather"), &name("Gather"), &[&shape, &one], &[("axis", Told::Int(0))]);
        let begin = graph.plain("Sub", &name("Sub"), &[&end, &new]);
        let range = graph.plain("Range", &name("Range"), &[&begin, &end, &one]);
        Ok([begin, range])
    }

    fn layer(&mut self, i: usize, layer: &LayerSpec, x: &mut Stream, lengths: &[String; 2]) -> Result<(), ExportError> {
        let own = |part: &str| format!("layers.{i}.{part}");
        let (before, after) = (layer.norm_placement.is_before(), layer.norm_placement.is_after());
        let Mixer::Attention(attention) = &layer.mixer else { return Ok(()) };
        let shared = if before { self.norm_of(x, &own("mixer_norm"))? } else { self.settled(x, i, "mixer") };
        let mut mixed = self.attention(i, attention, &shared, lengths)?;
        if after {
            mixed = self.norm(&mixed, &own("mixer_post_norm"))?;
        }
        mixed = self.residual(&mixed, i, "mixer")?;
        if let Some(mlp) = &layer.mlp {
            let sequential = layer.residual == Residual::Sequential;
            if sequential {
                x.rest = Some(mixed.clone());
            }
            let read = match layer.residual {
                Residual::ParallelShared => shared,
                _ if before => self.norm_of(x, &own("mlp_norm"))?,
                _ => self.settled(x, i, "mlp"),
            };
            let mut out = self.mlp(i, mlp, &read)?;
            if after {
                out = self.norm(&out, &own("mlp_post_norm"))?;
            }
            out = self.residual(&out, i, "mlp")?;
            mixed = match sequential {
                true => out,
                false => self.graph.plain("Add", &format!("/model/layers.{i}/blocks/Add"), &[&mixed, &out]),
            };
        }
        x.rest = Some(mixed);
        if layer.output_scale {
            let sum = self.settled(x, i, "output");
            let by = self.vector(&own("output_scale"), &[1])?;
            x.sum = self.graph.plain("Mul", &format!("/model/layers.{i}/output/Mul"), &[&sum, &by]);
        }
        Ok(())
    }

    /// A block's output as it is added to the stream.
    fn residual(&mut self, out: &str, i: usize, block: &str) -> Result<String, ExportError> {
        let multiplier = self.spec().residual_multiplier;
        if multiplier == 1.0 {
            return Ok(out.into());
        }
        let by = self.graph.number(multiplier)?;
        Ok(self.graph.plain("Mul", &format!("/model/layers.{i}/{block}/residual/Mul"), &[out, &by]))
    }

    /// The stream as one sum.
    fn settled(&mut self, x: &mut Stream, i: usize, block: &str) -> String {
        if let Some(rest) = x.rest.take() {
            x.sum = self.graph.plain("Add", &format!("/model/layers.{i}/{block}/stream/Add"), &[&x.sum, &rest]);
        }
        x.sum.clone()
    }

    /// The stream, normalized; the sum is made by the same node where there is one for both.
    fn norm_of(&mut self, x: &mut Stream, canonical: &str) -> Result<String, ExportError> {
        let Norm { kind, epsilon } = self.spec().norm;
        let Some(rest) = x.rest.take() else { return self.norm(&x.sum, canonical) };
        let path = path_of(&self.own_name(&format!("{canonical}.gain")));
        if kind.is_centred() {
            x.sum = self.graph.plain("Add", &format!("{path}/stream/Add"), &[&x.sum, &rest]);
            return self.norm(&x.sum, canonical);
        }
        let gain = self.vector(&format!("{canonical}.gain"), &[self.spec().hidden_size])?;
        let [out, sum] = [0, 3].map(|n| format!("{path}/output_{n}"));
        let outputs = match canonical {
            "final_norm" => vec![out.clone()],
            _ => vec![out.clone(), String::new(), String::new(), sum.clone()],
        };
        let op = (MICROSOFT, "SkipSimplifiedLayerNormalization");
        let told = [("epsilon", Told::Float(epsilon))];
        self.graph.node_with(op, &format!("{path}/SkipLayerNorm"), &[&x.sum, &rest, &gain], outputs, &told);
        x.sum = sum;
        Ok(out)
    }

    /// A block's output or input, normalized over its last dimension.
    fn norm(&mut self, x: &str, canonical: &str) -> Result<String, ExportError> {
        let width = self.spec().hidden_size;
        self.norm_as(x, canonical, self.spec().norm, &[width])
    }

    fn norm_as(&mut self, x: &str, canonical: &str, norm: Norm, shape: &[usize]) -> Result<String, ExportError> {
        let path = path_of(&self.own_name(&format!("{canonical}.gain")));
        let gain = self.vector(&format!("{canonical}.gain"), shape)?;
        let bias = match norm.kind.has_bias() {
            true => Some(self.vector(&format!("{canonical}.bias"), shape)?),
            false => None,
        };
        Ok(self.normalize(&path, x, norm, &gain, bias.as_deref()))
    }

    fn normalize(&mut self, path: &str, x: &str, Norm { kind, epsilon }: Norm, gain: &str, bias: Option<&str>) -> String {
        let op = if kind == NormKind::Rms { "SimplifiedLayerNormalization" } else { "LayerNormalization" };
        let told = [("epsilon", Told::Float(epsilon)), ("axis", Told::Int(-1)), ("stash_type", Told::Int(1))];
        let inputs: Vec<&str> = [x, gain].into_iter().chain(bias).collect();
        self.graph.node(("", op), &format!("{path}/LayerNorm"), &inputs, &told)
    }

    fn attention(&mut self, i: usize, a: &Attention, x: &str, lengths: &[String; 2]) -> Result<String, ExportError> {
        let canonical = format!("layers.{i}.qkv");
        let (own, kv) = (a.attention_size(), a.kv_size());
        let rows = [Rows::From(0, own), Rows::From(own, kv), Rows::From(own + kv, kv)];
        let modules = self.modules(&canonical, ["q_proj", "k_proj", "v_proj"].map(|p| format!("model.layers.{i}.self_attn.{p}")));
        let matrix = Matrix::read(self.weights, &canonical)?;
        let mut made = Vec::with_capacity(3);
        for (module, rows) in modules.iter().zip(rows) {
            made.push(self.product(module, &canonical, &matrix, rows, x, a.qkv_bias)?);
        }
        // Where something stands between rotation and attention, a node of its own rotates.
        let apart = a.rope.filter(|_| a.qk_norm_after_rope || a.query_scaling.is_some());
        if a.qk_norm_after_rope {
            self.rotate(i, a, &mut made, apart, lengths)?;
        }
        if let Some(norm) = a.qk_norm {
            for (made, (part, heads)) in made.iter_mut().zip([("q_norm", a.num_heads), ("k_norm", a.num_kv_heads)]) {
                *made = self.norm_heads(made, &format!("layers.{i}.{part}"), norm, heads, a.head_dim)?;
            }
        }
        if !a.qk_norm_after_rope {
            self.rotate(i, a, &mut made, apart, lengths)?;
        }
        let path = format!("/model/layers.{i}/self_attn");
        if let Some(scaling) = a.query_scaling {
            made[0] = self.scale_queries(&path, &made[0], scaling, lengths)?;
        }
        let rope = a.rope.filter(|_| apart.is_none());
        let tables = match rope {
            Some(table) => self.rope(table)?,
            None => [String::new(), String::new()],
        };
        let sinks = match a.sinks {
            true => self.vector(&format!("layers.{i}.sinks"), &[a.num_heads])?,
            false => String::new(),
        };
        let mut inputs = made;
        inputs.extend(["key", "value"].map(|part| format!("past_key_values.{i}.{part}")));
        inputs.extend(lengths.iter().cloned());
        inputs.extend(tables);
        if a.sinks {
            inputs.extend([String::new(), String::new(), sinks]);
        }
        while inputs.last().is_some_and(String::is_empty) {
            inputs.pop();
        }
        let out = format!("{path}/GroupQueryAttention/output_0");
        let outputs = std::iter::once(out.clone()).chain(["key", "value"].map(|part| format!("present.{i}.{part}"))).collect();
        let told = [
            ("num_heads", Told::Int(a.num_heads as i64)),
            ("kv_num_heads", Told::Int(a.num_kv_heads as i64)),
            ("scale", Told::Float(a.scale)),
            ("local_window_size", Told::Int(a.window.filter(|n| *n < self.spec().max_context).map_or(-1, |n| n as i64))),
            ("softcap", Told::Float(a.softcap.unwrap_or(0.0))),
            ("do_rotary", Told::Int(rope.is_some().into())),
            ("rotary_interleaved", Told::Int(0)),
        ];
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let name = format!("{path}/GroupQueryAttention");
        self.graph.node_with((MICROSOFT, "GroupQueryAttention"), &name, &inputs, outputs, &told);
        let canonical = format!("layers.{i}.attention_output");
        self.whole_product(&canonical, &out, a.output_bias)
    }

    /// Rotates queries and keys by a table, if there is one.
    fn rotate(
        &mut self,
        i: usize,
        a: &Attention,
        made: &mut [String],
        table: Option<usize>,
        lengths: &[String; 2],
    ) -> Result<(), ExportError> {
        let Some(table) = table else { return Ok(()) };
        let [cos, sin] = self.rope(table)?;
        let pairs = self.spec().ropes[table].inv_freq.len();
        let path = format!("/model/layers.{i}/self_attn/rotary_emb");
        let [first, _] = self.positions(&path, lengths)?;
        let list = self.graph.ints(&[1])?;
        let first = self.graph.plain("Reshape", &format!("{path}/Reshape"), &[&first, &list]);
        for (made, (part, heads)) in made.iter_mut().zip([("q", a.num_heads), ("k", a.num_kv_heads)]) {
            let told = [
                ("interleaved", Told::Int(0)),
                ("num_heads", Told::Int(heads as i64)),
                ("rotary_embedding_dim", Told::Int(if 2 * pairs == a.head_dim { 0 } else { 2 * pairs as i64 })),
            ];
            let op = (MICROSOFT, "RotaryEmbedding");
            *made = self.graph.node(op, &format!("{path}/{part}/RotaryEmbedding"), &[made, &first, &cos, &sin], &told);
        }
        Ok(())
    }

    /// Queries times `1 + beta × ln(1 + ⌊position / original_context⌋)`.
    fn scale_queries(
        &mut self,
        path: &str,
        queries: &str,
        QueryScaling { beta, original_context }: QueryScaling,
        lengths: &[String; 2],
    ) -> Result<String, ExportError> {
        let path = format!("{path}/q_scaling");
        let [_, positions] = self.positions(&path, lengths)?;
        let graph = &mut self.graph;
        let (context, one, column) = (graph.int(original_context as i64)?, graph.int(1)?, graph.ints(&[-1, 1])?);
        let name = |op: &str| format!("{path}/{op}");
        let times = graph.plain("Div", &name("Div"), &[&positions, &context]);
        let times = graph.plain("Add", &name("Add"), &[&times, &one]);
        let times = graph.plain("Reshape", &name("Reshape"), &[&times, &column]);
        let times = graph.node(("", "Cast"), &name("Cast"), &[&times], &[("to", Told::Int(graph.floats.code().into()))]);
        let log = graph.plain("Log", &name("Log"), &[&times]);
        let (beta, one) = (graph.number(beta)?, graph.number(1.0)?);
        let more = graph.plain("Mul", &name("Mul_beta"), &[&log, &beta]);
        let factor = graph.plain("Add", &name("Add_one"), &[&more, &one]);
        Ok(graph.plain("Mul", &name("Mul"), &[queries, &factor]))
    }

    /// Queries or keys, normalized.
    fn norm_heads(&mut self, x: &str, canonical: &str, norm: QkNorm, heads: usize, width: usize) -> Result<String, ExportError> {
        let of = norm.norm(self.spec().norm);
        if norm == QkNorm::Whole {
            return self.norm_as(x, canonical, of, &[heads * width]);
        }
        let path = path_of(&self.own_name(&format!("{canonical}.gain")));
        let apart = self.graph.ints(&[0, 0, heads as i64, width as i64])?;
        let together = self.graph.ints(&[0, 0, (heads * width) as i64])?;
        let x = self.graph.plain("Reshape", &format!("{path}/Reshape_1"), &[x, &apart]);
        let normalized = match norm {
            QkNorm::EachHead(kind) => {
                let name = format!("/model/constants/{}/ones_{width}", self.graph.floats.name());
                let ones = self.graph.numbers(&name, &[width], &vec![1.0; width])?;
                let plain = Norm { kind: if kind.has_bias() { NormKind::LayerNoBias } else { kind }, ..of };
                let x = self.normalize(&path, &x, plain, &ones, None);
                let gain = self.vector(&format!("{canonical}.gain"), &[heads, width])?;
                let x = self.graph.plain("Mul", &format!("{path}/Mul"), &[&x, &gain]);
                match kind.has_bias() {
                    true => {
                        let bias = self.vector(&format!("{canonical}.bias"), &[heads, width])?;
                        self.graph.plain("Add", &format!("{path}/Add"), &[&x, &bias])
                    }
                    false => x,
                }
            }
            QkNorm::PerHead | QkNorm::Whole => self.norm_as(&x, canonical, of, &[width])?,
        };
        Ok(self.graph.plain("Reshape", &format!("{path}/Reshape_2"), &[&normalized, &together]))
    }

    /// Cosines and sines of all positions.
    fn rope(&mut self, index: usize) -> Result<[String; 2], ExportError> {
        let (spec, behind) = (self.spec(), if index == 0 { String::new() } else { format!("_{index}") });
        let RopeTable { inv_freq, factor, .. } = &spec.ropes[index];
        let shape = [spec.max_context, inv_freq.len()];
        let mut table = |name: &str, f: fn(f32) -> f32| {
            // The angle is an f32 product, as in training.
            let angles = || (0..spec.max_context).flat_map(|p| inv_freq.iter().map(move |frequency| p as f32 * frequency));
            self.graph.numbers(&format!("{name}_cache{behind}"), &shape, &angles().map(|a| f(a) * factor).collect::<Vec<_>>())
        };
        Ok([table("cos", f32::cos)?, table("sin", f32::sin)?])
    }

    fn mlp(&mut self, i: usize, mlp: &Mlp, x: &str) -> Result<String, ExportError> {
        let up = format!("layers.{i}.{}", mlp.up_name());
        let path = format!("/model/layers.{i}/mlp/act_fn");
        let inner = match mlp.gated {
            true => {
                let modules = self.modules(&up, ["gate_proj", "up_proj"].map(|p| format!("model.layers.{i}.mlp.{p}")));
                let matrix = Matrix::read(self.weights, &up)?;
                let mut made = Vec::with_capacity(2);
                for (module, first) in modules.iter().zip([0, 1]) {
                    made.push(self.product(module, &up, &matrix, Rows::EveryOther(first), x, mlp.bias)?);
                }
                let gate = self.activation(&path, mlp.activation, &made[0]);
                self.graph.plain("Mul", &format!("/model/layers.{i}/mlp/Mul"), &[&gate, &made[1]])
            }
            false => {
                let made = self.whole_product(&up, x, mlp.bias)?;
                self.activation(&path, mlp.activation, &made)
            }
        };
        self.whole_product(&format!("layers.{i}.{}", mlp.down_name()), &inner, mlp.bias)
    }

    fn activation(&mut self, path: &str, activation: Activation, x: &str) -> String {
        let graph = &mut self.graph;
        let mut gelu = |approximate: &str| {
            graph.node(("", "Gelu"), &format!("{path}/Gelu"), &[x], &[("approximate", Told::Text(approximate))])
        };
        match activation {
            Activation::Gelu => gelu("none"),
            Activation::GeluTanh => gelu("tanh"),
            Activation::Relu2 => {
                let positive = graph.plain("Relu", &format!("{path}/Relu"), &[x]);
                graph.plain("Mul", &format!("{path}/Mul"), &[&positive, &positive])
            }
            // Clamped ones are refused before.
            Activation::Silu | Activation::ClampedSwiglu => {
                let share = graph.plain("Sigmoid", &format!("{path}/Sigmoid"), &[x]);
                graph.plain("Mul", &format!("{path}/Mul"), &[x, &share])
            }
        }
    }

    fn head(&mut self, embedding: Option<Matrix>, x: &str) -> Result<(), ExportError> {
        let spec = self.spec();
        let (canonical, matrix) = match embedding {
            Some(matrix) => ("embedding", matrix),
            None => ("head", Matrix::read(self.weights, "head")?),
        };
        let tied = canonical == "embedding";
        let rows = Rows::From(0, spec.vocab_size);
        let path = "/lm_head";
        let mut logits = match &matrix {
            Matrix::Floats { .. } if tied => {
                let table = self.own_name("embedding");
                let told = [("perm", Told::Ints(&[1, 0]))];
                let turned = self.graph.node(("", "Transpose"), "/lm_head/Transpose", &[&format!("{table}.weight")], &told);
                let turned = self.cast("/lm_head", &matrix, turned);
                self.graph.plain("MatMul", "/lm_head/MatMul", &[x, &turned])
            }
            _ if tied => {
                let module = self.own_name("embedding");
                self.product_at(path, &module, canonical, &matrix, rows, x)?
            }
            _ => self.product_at(path, &self.own_name("head"), canonical, &matrix, rows, x)?,
        };
        if spec.head_bias {
            let bias = self.vector("head.bias", &[spec.vocab_size])?;
            logits = self.graph.plain("Add", "/lm_head/Add", &[&logits, &bias]);
        }
        if spec.logit_multiplier != 1.0 {
            let by = self.graph.number(spec.logit_multiplier)?;
            logits = self.graph.plain("Mul", "/lm_head/Mul", &[&logits, &by]);
        }
        if let Some(cap) = spec.logit_softcap {
            let by = self.graph.number(cap)?;
            let share = self.graph.plain("Div", "/lm_head/softcap/Div", &[&logits, &by]);
            let capped = self.graph.plain("Tanh", "/lm_head/softcap/Tanh", &[&share]);
            self.graph.plain("Mul", "/lm_head/softcap/Mul", &[&capped, &by]);
        }
        Ok(())
    }

    /// A product with a whole canonical matrix.
    fn whole_product(&mut self, canonical: &str, x: &str, bias: bool) -> Result<String, ExportError> {
        let matrix = Matrix::read(self.weights, canonical)?;
        let rows = Rows::From(0, matrix.rows());
        self.product(&self.own_name(canonical), canonical, &matrix, rows, x, bias)
    }

    /// A product with rows of a canonical matrix, under a module's name.
    fn product(
        &mut self,
        module: &str,
        canonical: &str,
        matrix: &Matrix,
        rows: Rows,
        x: &str,
        bias: bool,
    ) -> Result<String, ExportError> {
        let path = path_of(module);
        let out = self.product_at(&path, module, canonical, matrix, rows, x)?;
        if !bias {
            return Ok(out);
        }
        let canonical = format!("{canonical}.bias");
        let numbers = rows.of(&self.weights.read(&canonical)?, 1);
        let name = self.graph.numbers(&format!("{module}.bias"), &[numbers.len()], &numbers)?;
        self.written.push(Written { name: name.clone(), canonical, rows, transposed: false });
        Ok(self.graph.plain("Add", &format!("{path}/Add"), &[&out, &name]))
    }

    fn product_at(
        &mut self,
        path: &str,
        module: &str,
        canonical: &str,
        matrix: &Matrix,
        rows: Rows,
        x: &str,
    ) -> Result<String, ExportError> {
        let Matrix::Codes(codes) = matrix else {
            let weight = self.floats(canonical, module, matrix, rows, true)?;
            let weight = self.cast(path, matrix, weight);
            return Ok(self.graph.plain("MatMul", &format!("{path}/MatMul"), &[x, &weight]));
        };
        let [weight, scales, zeros] = self.codes(canonical, module, matrix, rows)?;
        let told = [
            ("K", Told::Int(codes.columns as i64)),
            ("N", Told::Int(rows.count(matrix.rows()) as i64)),
            ("bits", Told::Int(codes.bits.into())),
            ("block_size", Told::Int(codes.block as i64)),
        ];
        let inputs: Vec<&str> = [x, &weight, &scales, &zeros].into_iter().filter(|name| !name.is_empty()).collect();
        Ok(self.graph.node((MICROSOFT, "MatMulNBits"), &format!("{path}/MatMulNBits"), &inputs, &told))
    }

    /// Codes, scales and zero points as tensors; no name where there are none of the last.
    fn codes(&mut self, canonical: &str, module: &str, matrix: &Matrix, rows: Rows) -> Result<[String; 3], ExportError> {
        let base = format!("{module}.weight");
        let taken = matrix.take(rows);
        let (Matrix::Codes(codes), count) = (&taken, taken.rows()) else { return Ok([const { String::new() }; 3]) };
        let name = format!("{base}_Q{}", codes.bits);
        let name = self.graph.tensor(&name, &[count, codes.blocks, codes.blob()], code::U8, codes.packed())?;
        let scales = self.graph.numbers(&format!("{base}_scales"), &[count, codes.blocks], &codes.scales)?;
        let zeros = match codes.packed_zero_points() {
            Some(packed) => {
                let row = packed.len() / count.max(1);
                self.graph.tensor(&format!("{base}_zp"), &[count, row], code::U8, packed)?
            }
            None => String::new(),
        };
        self.written.push(Written { name: base, canonical: canonical.into(), rows, transposed: false });
        Ok([name, scales, zeros])
    }

    /// Numbers of a matrix as a tensor, with columns first where it is `transposed`.
    fn floats(
        &mut self,
        canonical: &str,
        module: &str,
        matrix: &Matrix,
        rows: Rows,
        transposed: bool,
    ) -> Result<String, ExportError> {
        let Matrix::Floats { columns, half, numbers } = matrix else { return Ok(String::new()) };
        let mut taken = rows.of(numbers, *columns);
        let count = taken.len() / (*columns).max(1);
        let mut shape = [count, *columns];
        if transposed {
            taken = (0..*columns).flat_map(|c| (0..count).map(move |r| (r, c))).map(|(r, c)| taken[r * columns + c]).collect();
            shape.reverse();
        }
        let name = format!("{module}.weight");
        self.written.push(Written { name: name.clone(), canonical: canonical.into(), rows, transposed });
        match half {
            true => {
                let bytes = taken.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
                self.graph.tensor(&name, &shape, code::F16, bytes)
            }
            false => self.graph.numbers(&name, &shape, &taken),
        }
    }

    /// What a matrix makes, in the type of activations: f16 is stored as such.
    fn cast(&mut self, path: &str, matrix: &Matrix, x: String) -> String {
        let kind = self.graph.floats.code();
        match matrix {
            Matrix::Floats { half: true, .. } if kind != code::F16 => {
                self.graph.node(("", "Cast"), &format!("{path}/Cast"), &[&x], &[("to", Told::Int(kind.into()))])
            }
            _ => x,
        }
    }

    fn vector(&mut self, canonical: &str, shape: &[usize]) -> Result<String, ExportError> {
        let numbers = self.weights.read(canonical)?;
        let kind = if canonical.ends_with(".bias") { "bias" } else { "weight" };
        let name = self.graph.numbers(&format!("{}.{kind}", self.own_name(canonical)), shape, &numbers)?;
        let rows = Rows::From(0, numbers.len());
        self.written.push(Written { name: name.clone(), canonical: canonical.into(), rows, transposed: false });
        Ok(name)
    }

    /// The module that has a canonical tensor in the class, or the canonical name where several have it.
    fn own_name(&self, canonical: &str) -> String {
        let named = self.layout.sources.get(canonical).map(|source| source.tensors());
        match named.as_deref() {
            Some([one]) => module_of(one).into(),
            _ => format!("model.{}", canonical.trim_end_matches(".gain").trim_end_matches(".bias")),
        }
    }

    /// The modules that have parts of a canonical matrix in the class, or `usual` names where it has not these parts.
    fn modules<const N: usize>(&self, canonical: &str, usual: [String; N]) -> [String; N] {
        let Some(source) = self.layout.sources.get(canonical) else { return usual };
        // Rows are in another order than the class's: its names would say otherwise.
        if source.parts.iter().any(|part| part.rows_are != RowOrder::Same) {
            return usual.map(|name| format!("{name}_in_halves"));
        }
        let whole = source.parts.len() == N && source.tensors().len() == N;
        let order = if N == 2 { Order::Interleaved } else { Order::Stacked };
        if !whole || source.order != order {
            return usual;
        }
        std::array::from_fn(|i| module_of(&source.parts[i].tensor).into())
    }
}

/// A tensor's name without what it is of its module.
fn module_of(tensor: &str) -> &str {
    tensor.strip_suffix(".weight").or_else(|| tensor.strip_suffix(".bias")).unwrap_or(tensor)
}

/// A module's name as nodes have it: `/model/layers.0/mlp/up_proj`.
fn path_of(module: &str) -> String {
    module.split('.').fold(String::new(), |path, part| match part.parse::<usize>() {
        Ok(_) => format!("{path}.{part}"),
        Err(_) => format!("{path}/{part}"),
    })
}
