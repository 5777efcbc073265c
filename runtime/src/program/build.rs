//! From a decoder's spec to the operations of a part of a step, none of them fused yet.

use super::{Operation, Output, Part, Phase, Program, RowSource, Step, Value};
use crate::kernels::altup::End;
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{Attention, DeltaNet, LayerSpec, Mamba2, Mixer, Mlp, Residual, ShortConv};

/// The operations of `part`.
pub fn build(spec: &DecoderSpec, part: Part) -> Program {
    let (rows, phase, operations) = match part {
        Part::Body(Step { phase, tokens }) => (tokens, phase, body(spec)),
        Part::Head { rows, from } => (rows, few_or_many(rows), head(spec, from)),
        Part::Sample { rows, advance, masked } => {
            (rows, Phase::Decode, vec![Operation::Sample { from: Value::Logits, advance, masked }])
        }
    };
    Program { rows, phase, operations }
}

fn few_or_many(rows: usize) -> Phase {
    if rows <= super::MAX_BATCH { Phase::Decode } else { Phase::Prefill }
}

fn body(spec: &DecoderSpec) -> Vec<Operation> {
    let rows = RowSource::Ids { multiplier: spec.embedding_multiplier };
    let mut operations = vec![Operation::Embed { table: "embedding".into(), rows, into: Value::Hidden }];
    if spec.learned_positions {
        operations.push(Operation::Embed { table: "positions".into(), rows: RowSource::Positions, into: Value::Hidden });
    }
    if let Some(per_layer) = spec.per_layer_embedding {
        let into = Value::PerLayer(spec.num_layers() * per_layer.size);
        let (matrix, from) = ("per_layer_projection".into(), Value::Hidden);
        operations.push(Operation::Project { matrix, bias: None, norm: None, from, into, output: Output::Store });
        operations.push(Operation::PerLayerInputs { into });
    }
    let (hidden, from, streams) = (Value::Hidden, Value::BlockOutput, streams(spec));
    let ends: Vec<_> = spec.altup.iter().flat_map(|altup| altup.ends()).zip(1..).collect();
    let project = |matrix, from, into| Operation::Project { matrix, bias: None, norm: None, from, into, output: Output::Store };
    for ([matrix, _], stream) in ends.clone() {
        operations.push(project(matrix, hidden, from));
        operations.push(Operation::EndStream { end: End::First(stream), multiplier: 1.0, from, streams });
    }
    for index in 0..spec.num_layers() {
        Layer { spec, index, operations: &mut operations }.build();
    }
    for ([_, matrix], stream) in ends {
        let into = Value::Normed;
        operations.push(Operation::TakeStream { stream, from: streams, into });
        operations.push(project(matrix, into, from));
        operations.push(Operation::EndStream { end: End::Last(stream), multiplier: 1.0, from, streams });
    }
    operations
}

fn streams(spec: &DecoderSpec) -> Value {
    Value::Streams(spec.stream_size())
}

fn head(spec: &DecoderSpec, from: Value) -> Vec<Operation> {
    let norm = Operation::Norm {
        norm: spec.norm,
        parameters: "final_norm".into(),
        from,
        into: Value::HeadNormed,
        residual: None,
        scale: None,
    };
    let logits = Operation::Project {
        matrix: if spec.tied_head { "embedding" } else { "head" }.into(),
        bias: spec.head_bias.then(|| "head.bias".into()),
        norm: None,
        from: Value::HeadNormed,
        into: Value::Logits,
        output: Output::Logits { multiplier: spec.logit_multiplier, softcap: spec.logit_softcap },
    };
    vec![norm, logits]
}

/// Both blocks up to their last projections, which alone write to the residual stream. Where the blocks are parallel, the
/// second has read the stream before the first is added to it.
struct Layer<'a> {
    spec: &'a DecoderSpec,
    index: usize,
    operations: &'a mut Vec<Operation>,
}

impl<'a> Layer<'a> {
    fn build(mut self) {
        let layer = self.layer();
        self.update_streams(false);
        let input = self.block_input("mixer_norm");
        // All mixers read the input before any of them is added to the stream.
        for mixer in layer.mixers() {
            match mixer {
                Mixer::Attention(attention) => self.attend(attention, input),
                Mixer::ShortConv(conv) => self.convolve(conv, input),
                Mixer::DeltaNet(net) => self.correct(net, input),
                Mixer::Mamba2(mamba) => self.scan(mamba, input),
            }
        }
        match &layer.mlp {
            Some(mlp) => self.add_blocks(mlp, input),
            None => self.add_mixers(),
        }
        self.update_streams(true);
        if let Some(per_layer) = self.spec.per_layer_embedding {
            let (all, gate) = (Value::PerLayer(self.spec.num_layers() * per_layer.size), Value::PerLayerGate(per_layer.size));
            self.project(Value::Hidden, "per_layer_gate", false, gate, Output::Activate(per_layer.activation));
            self.operations.push(Operation::TakeLayer { layer: self.index, from: all, into: gate });
            self.project(gate, "per_layer_output", false, Value::BlockOutput, Output::Store);
            match self.spec.altup {
                Some(_) => {
                    let (from, parameters, into) = (Value::BlockOutput, self.name("per_layer_post_norm"), Value::Normed);
                    self.operations.push(Operation::Norm {
                        norm: self.spec.norm,
                        parameters,
                        from,
                        into,
                        residual: None,
                        scale: None,
                    });
                    let (multiplier, streams) = (self.spec.residual_multiplier, streams(self.spec));
                    self.operations.push(Operation::EndStream { end: End::Add, multiplier, from: into, streams });
                }
                None => self.add_norm("per_layer_post_norm"),
            }
        }
        if layer.output_scale {
            let by = self.name("output_scale");
            match self.operations.last_mut() {
                Some(Operation::Norm { into: Value::Hidden, residual: Some(_), scale, .. }) => *scale = Some(by),
                _ => self.operations.push(Operation::Scale { by, into: Value::Hidden }),
            }
        }
    }

    /// Guesses all streams, of which the blocks compute one, or corrects them.
    fn update_streams(&mut self, correct: bool) {
        if self.spec.altup.is_some() {
            self.operations.push(Operation::AltUp { layer: self.index, correct, streams: streams(self.spec) });
        }
    }

    /// From the mixers' outputs and their `input` to the residual stream after both blocks.
    fn add_blocks(&mut self, mlp: &Mlp, input: Value) {
        match self.layer().residual {
            Residual::Sequential => {
                self.add_mixers();
                let input = self.block_input("mlp_norm");
                self.feed_forward(mlp, input);
            }
            Residual::Parallel => {
                let input = self.block_input("mlp_norm");
                self.feed_forward(mlp, input);
                self.add_mixers();
            }
            Residual::ParallelShared => {
                self.feed_forward(mlp, input);
                self.add_mixers();
            }
        }
        self.add_feed_forward(mlp);
    }

    fn layer(&self) -> &'a LayerSpec {
        &self.spec.layers[self.index]
    }

    /// The canonical name of one of the layer's tensors.
    fn name(&self, part: &str) -> String {
        format!("layers.{}.{part}", self.index)
    }

    /// The residual stream as a block reads it: normalized, or as it is where norms stand after the blocks alone.
    fn block_input(&mut self, norm: &str) -> Value {
        if !self.layer().norm_placement.is_before() {
            return Value::Hidden;
        }
        let parameters = self.name(norm);
        let (from, into) = (Value::Hidden, Value::Normed);
        self.operations.push(Operation::Norm { norm: self.spec.norm, parameters, from, into, residual: None, scale: None });
        Value::Normed
    }

    /// From the block's input to the heads' outputs.
    fn attend(&mut self, attention: &Attention, input: Value) {
        self.project(input, "qkv", attention.qkv_bias, Value::Qkv, Output::Store);
        let layer = self.index;
        let (writes, cache) = (attention.kv_from.is_none(), attention.kv_from.unwrap_or(layer));
        self.operations.push(Operation::RopeCache { layer, writes, from: Value::Qkv, into: Value::Query });
        self.operations.push(Operation::Attend { layer, cache, from: Value::Query, into: Value::Attended });
        if attention.gate.is_some() {
            self.operations.push(Operation::GateHeads { layer, from: Value::Qkv, into: Value::Attended });
        }
    }

    /// From the block's input to the convolution's gated outputs.
    fn convolve(&mut self, conv: &ShortConv, input: Value) {
        let (from, into) = (Value::ConvInput(conv.input_rows()), Value::Convolved(conv.channels));
        self.project(input, "conv_in", conv.bias, from, Output::Store);
        self.operations.push(Operation::ShortConv { layer: self.index, from, into });
    }

    /// From the block's input to the outputs of a gated delta net's heads.
    fn correct(&mut self, net: &DeltaNet, input: Value) {
        let layer = self.index;
        let (rows, mixed) = (Value::DeltaInput(net.input_rows()), Value::DeltaMixed(net.channels() + 2 * net.num_value_heads));
        let into = Value::DeltaOutput(net.value_size());
        self.project(input, "delta_in", false, rows, Output::Store);
        self.operations.push(Operation::DeltaConv { layer, from: rows, into: mixed });
        self.operations.push(Operation::DeltaScan { layer, from: mixed, into });
        self.operations.push(Operation::DeltaNorm { layer, from: rows, into });
    }

    /// From the block's input to the gated outputs of a Mamba 2 mixer's heads.
    fn scan(&mut self, mamba: &Mamba2, input: Value) {
        let layer = self.index;
        let (rows, mixed) = (Value::MambaInput(mamba.input_rows()), Value::MambaMixed(mamba.channels() + 2 * mamba.num_heads));
        let into = Value::MambaOutput(mamba.inner_size());
        self.project(input, "mamba_in", mamba.input_bias, rows, Output::Store);
        self.operations.push(Operation::MambaConv { layer, from: rows, into: mixed });
        self.operations.push(Operation::MambaScan { layer, from: mixed, into });
        self.operations.push(Operation::MambaNorm { layer, from: rows, into });
    }

    /// From the block's input to the inner activations.
    fn feed_forward(&mut self, mlp: &Mlp, input: Value) {
        let output = if mlp.gated { Output::Glu(mlp.activation) } else { Output::Activate(mlp.activation) };
        let inner = inner(mlp);
        if mlp.gate_cutoff.is_some() {
            let from = Value::GateUp(mlp.up_size());
            self.project(input, mlp.up_name(), mlp.bias, from, Output::Store);
            return self.operations.push(Operation::CutGates { layer: self.index, from, into: inner });
        }
        let Some(experts) = mlp.experts else {
            return self.project(input, mlp.up_name(), mlp.bias, inner, output);
        };
        let (from, into) = (Value::RouterLogits(experts.router_rows()), Value::Routing(experts.num_active));
        self.project(input, "router", experts.router_bias, from, Output::Store);
        self.operations.push(Operation::ChooseExperts { layer: self.index, from, into });
        self.project_experts(mlp, mlp.up_name(), input, inner, output);
    }

    /// From the inner activations to the residual stream.
    fn add_feed_forward(&mut self, mlp: &Mlp) {
        let norm = "mlp_post_norm";
        if mlp.experts.is_none() {
            return self.add_block(&[(inner(mlp), "down", mlp.bias)], norm);
        }
        let (into, output) = self.block_output();
        self.project_experts(mlp, mlp.down_name(), inner(mlp), into, output);
        self.add_normed(norm);
    }

    /// A product with the matrices of each token's experts.
    fn project_experts(&mut self, mlp: &Mlp, matrix: &str, from: Value, into: Value, output: Output) {
        let matrix = self.name(matrix);
        let bias = mlp.bias.then(|| format!("{matrix}.bias"));
        let (layer, routing) = (self.index, Value::Routing(mlp.num_active()));
        self.operations.push(Operation::ProjectExperts { layer, matrix, bias, routing, from, into, output });
    }

    fn add_mixers(&mut self) {
        let part = |mixer: &Mixer| {
            let from = match mixer {
                Mixer::Attention(_) => Value::Attended,
                Mixer::ShortConv(conv) => Value::Convolved(conv.channels),
                Mixer::DeltaNet(net) => Value::DeltaOutput(net.value_size()),
                Mixer::Mamba2(mamba) => Value::MambaOutput(mamba.inner_size()),
            };
            (from, mixer.matrices()[1], mixer.biases()[1])
        };
        let parts: Vec<_> = self.layer().mixers().map(part).collect();
        let (from, into) = (Value::Normed, Value::Hidden);
        if let Some(rank) = self.layer().laurel {
            // The mixers have read their input.
            self.project(from, "laurel_left", false, Value::Laurel(rank), Output::Store);
            self.project(Value::Laurel(rank), "laurel_right", false, Value::BlockOutput, Output::Store);
            let (norm, parameters, from, into) = (self.spec.norm, self.name("laurel_norm"), Value::BlockOutput, from);
            self.operations.push(Operation::Norm { norm, parameters, from, into, residual: Some(1.0), scale: None });
        }
        self.add_block(&parts, "mixer_post_norm");
        if self.layer().laurel.is_some() {
            self.operations.push(Operation::Laurel { from, into });
        }
    }

    /// A block's last projections, added to the residual stream, after a norm of its own where there is one.
    fn add_block(&mut self, parts: &[(Value, &str, bool)], norm: &str) {
        for (i, &(from, matrix, bias)) in parts.iter().enumerate() {
            let (into, mut output) = self.block_output();
            if i > 0 && into == Value::BlockOutput {
                output = Output::Residual { multiplier: 1.0 };
            }
            self.project(from, matrix, bias, into, output);
        }
        self.add_normed(norm);
    }

    /// Where a block's last product goes: to the residual stream, unless there is a norm after it.
    fn block_output(&self) -> (Value, Output) {
        let multiplier = self.spec.residual_multiplier;
        if self.layer().norm_placement.is_after() {
            (Value::BlockOutput, Output::Store)
        } else {
            (Value::Hidden, Output::Residual { multiplier })
        }
    }

    /// The norm after a block, where there is one.
    fn add_normed(&mut self, norm: &str) {
        if self.layer().norm_placement.is_after() {
            self.add_norm(norm);
        }
    }

    /// A block's output, normalized and added to the residual stream.
    fn add_norm(&mut self, norm: &str) {
        let (parameters, residual) = (self.name(norm), Some(self.spec.residual_multiplier));
        let (from, into) = (Value::BlockOutput, Value::Hidden);
        self.operations.push(Operation::Norm { norm: self.spec.norm, parameters, from, into, residual, scale: None });
    }

    fn project(&mut self, from: Value, matrix: &str, bias: bool, into: Value, output: Output) {
        let matrix = self.name(matrix);
        let bias = bias.then(|| format!("{matrix}.bias"));
        self.operations.push(Operation::Project { matrix, bias, norm: None, from, into, output });
    }
}

/// The inner activations of a feed-forward network.
fn inner(mlp: &Mlp) -> Value {
    let width = mlp.intermediate_size;
    mlp.experts.map_or(Value::Inner(width), |e| Value::ExpertsInner { experts: e.num_active, width })
}
