//! Operations that a calibrated conversion's steps take, by the sizes of matrices and texts.
//!
//! A multiplication with the addition after it counts as two. Work of no product (norms, scales, packing) is not counted.

use super::calibrated::correction::keeps_outputs;
use haikuq_format::DecoderSpec;
use haikuq_format::manifest::TensorEntry;
use haikuq_format::spec::{LayerSpec, Mixer, Mlp, TensorClass};

/// `[n, terms]` times `[terms, columns]`.
fn product(n: usize, terms: usize, columns: usize) -> f64 {
    2.0 * n as f64 * terms as f64 * columns as f64
}

/// A pass through a layer over windows of `length` tokens.
pub(crate) fn layer(layer: &LayerSpec, hidden: usize, windows: usize, length: usize) -> f64 {
    let tokens = windows * length;
    let mixers: usize = layer.mixers().map(|mixer| mixer.input_rows() + mixer.output_columns()).sum();
    let of_mlp = |mlp: &Mlp| {
        let router = mlp.experts.map_or(0, |e| e.router_rows());
        router + mlp.num_active() * (mlp.up_size() + mlp.intermediate_size)
    };
    let rows = mixers + 2 * layer.laurel.unwrap_or(0) + layer.mlp.as_ref().map_or(0, of_mlp);
    let between = |mixer: &Mixer| match mixer {
        // Half of the keys are seen, and each takes part in two products.
        Mixer::Attention(attention) => product(tokens, length, attention.attention_size()),
        Mixer::ShortConv(conv) => product(tokens, conv.kernel_size, conv.channels),
        // A state is read for its key, changed, and read for its query.
        Mixer::DeltaNet(net) => product(tokens, 3, net.state_size()),
        // A state is changed, and read.
        Mixer::Mamba2(mamba) => product(tokens, 2, mamba.states_size()),
    };
    product(tokens, hidden, rows) + layer.mixers().map(between).sum::<f64>()
}

/// What numbers of tokens for a layer take: their part of a projection, and the layer's matrices for them.
fn per_layer(spec: &DecoderSpec, windows: usize, length: usize) -> f64 {
    spec.per_layer_embedding.map_or(0.0, |p| product(windows * length, spec.hidden_size, 3 * p.size))
}

/// One triangle of the Hessian of `columns` inputs.
pub(crate) fn moments(tokens: usize, columns: usize) -> f64 {
    product(columns, tokens, columns) / 2.0
}

/// What earlier errors changed in a matrix's outputs for so many tokens.
pub(crate) fn correction(tokens: usize, rows: usize, columns: usize) -> f64 {
    let narrower = if keeps_outputs(rows, columns) { rows } else { columns };
    product(narrower, tokens, columns) + product(rows, columns, columns)
}

/// The correction from that: products with two triangles.
pub(crate) fn solving(rows: usize, columns: usize) -> f64 {
    product(rows, columns, columns)
}

/// A Cholesky factorization, and the inverse of its triangle.
pub(crate) fn factorization(columns: usize) -> f64 {
    2.0 * (columns as f64).powi(3) / 3.0
}

/// GPTQ, and the gradient that descent starts from: a triangle's product each.
pub(crate) fn codes(rows: usize, columns: usize) -> f64 {
    product(rows, columns, columns)
}

/// Outputs of a matrix and of its error for sampled tokens.
pub(crate) fn loss(tokens: usize, rows: usize, columns: usize) -> f64 {
    2.0 * product(tokens, rows, columns)
}

/// The same for a tensor of experts, of which each token uses `active` of `all`: each is a matrix of its own, and sees its share of tokens.
pub(super) fn matrices(tokens: usize, tensor: &TensorEntry, (active, all): (u64, u64)) -> f64 {
    let (active, all) = (active as usize, all.max(1) as usize);
    if all == 1 {
        return matrix(tokens, tensor);
    }
    let mut one = tensor.clone();
    one.shape[0] /= all;
    all as f64 * matrix((tokens * active / all).max(1), &one)
}

/// All that is done for a matrix of a layer, in about the time that so many operations of products take: factorization and
/// codes are slower than these, and each weight's scales take time, too.
fn matrix(tokens: usize, tensor: &TensorEntry) -> f64 {
    let (rows, columns) = (tensor.rows(), tensor.columns());
    let scales = 2e4 * rows as f64 * columns as f64;
    if tensor.class == TensorClass::Embedding {
        return scales;
    }
    2.0 * product(tokens, columns, rows)
        + moments(tokens, columns)
        + correction(tokens, rows, columns)
        + 1.5 * solving(rows, columns)
        + 4.0 * factorization(columns)
        + 1.5 * codes(rows, columns)
        + scales
}

/// Measuring sensitivities on windows of `length` tokens: what the `step`-th of [`crate::calibrate::sensitivity::steps`] does,
/// from 1 on. A pass backward does a pass forward first, and then a product for each of that one's.
pub(crate) fn sensitivities(spec: &DecoderSpec, step: usize, windows: usize, length: usize) -> f64 {
    let layers = spec.num_layers();
    let of_layer =
        |index: usize| layer(&spec.layers[index], spec.hidden_size, windows, length) + per_layer(spec, windows, length);
    match step {
        0 => 0.0,
        _ if step <= layers => of_layer(step - 1),
        _ if step == layers + 1 => 2.0 * product(windows * length, spec.hidden_size, spec.vocab_size),
        _ => 2.0 * of_layer((2 * layers + 1).saturating_sub(step)),
    }
}
