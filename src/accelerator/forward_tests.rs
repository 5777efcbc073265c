//! What a layer does beside products, against twins that do it one number at a time.

use super::tests::{accelerator, assert_close, numbers};
use super::{Accelerator, HeadColumns};
use haikuq_format::spec::{Activation, Attention, Norm, NormKind};

/// `softmax(scale · q k) v` of one head of one window, query by query.
fn attended(qkv: &[f32], a: &Attention, sinks: &[f32], length: usize) -> Vec<f32> {
    let (columns, width) = (a.qkv_size(), a.head_dim);
    let mut out = Vec::new();
    for (window, query) in (0..qkv.len() / columns / length).flat_map(|w| (0..length).map(move |q| (w, q))) {
        for head in 0..a.num_heads {
            let kv = head / (a.num_heads / a.num_kv_heads) * width;
            let row = |position: usize, column: usize| &qkv[(window * length + position) * columns + column..][..width];
            let seen = a.window.map_or(0, |w| (query + 1).saturating_sub(w))..query + 1;
            let score = |p: usize| {
                let product: f32 = row(query, head * width).iter().zip(row(p, a.attention_size() + kv)).map(|(q, k)| q * k).sum();
                a.softcap.map_or(a.scale * product, |cap| cap * (a.scale * product / cap).tanh())
            };
            let weights: Vec<f32> = seen.clone().map(|p| score(p).exp()).collect();
            let total: f32 = weights.iter().sum::<f32>() + sinks.get(head).map_or(0.0, |sink| sink.exp());
            out.extend((0..width).map(|d| {
                let value = |p: usize| row(p, a.attention_size() + a.kv_size() + kv)[d];
                seen.clone().zip(&weights).map(|(p, w)| w / total * value(p)).sum::<f32>()
            }));
        }
    }
    out
}

fn check_attention(accelerator: &Accelerator, attention: &Attention, length: usize, windows: usize) {
    let qkv = numbers(windows * length * attention.qkv_size(), 1);
    let on_gpu = accelerator.upload(&qkv, attention.qkv_size()).unwrap();
    assert!(accelerator.can_attend(attention, windows, length));
    let sinks: Vec<f32> =
        (0..if attention.sinks { attention.num_heads } else { 0 }).map(|head| head as f32 * 0.7 - 1.0).collect();
    let out = accelerator.download(&accelerator.attend(&on_gpu, attention, &sinks, length).unwrap()).unwrap();
    assert_close(&format!("{attention:?}"), &out, &attended(&qkv, attention, &sinks, length), 1e-5);
}

#[test]
fn attention_is_that_of_each_head() {
    let mut accelerator = accelerator();
    let plain = Attention::new(6, 2, 16);
    check_attention(&accelerator, &plain, 37, 3);
    let mut capped = plain;
    (capped.softcap, capped.window, capped.sinks) = (Some(1.5), Some(20), true);
    check_attention(&accelerator, &capped, 150, 1);
    // Two windows a buffer.
    let narrow = Attention::new(2, 2, 32);
    accelerator.panel_bytes = 2 * 64 * 192 * 4;
    check_attention(&accelerator, &narrow, 64, 5);
    assert!(!accelerator.can_attend(&Attention::new(2, 2, 24), 1, 64), "heads of 24 are left to the processor");
}

#[test]
fn norms_are_those_of_the_definition() {
    let accelerator = accelerator();
    let (rows, columns) = (21, 100);
    let x = numbers(rows * columns, 2);
    // A whole row; two heads of 30 with a gain each; the same gains for both.
    for (first, heads, width, gains) in [(0, 1, 100, 100), (10, 2, 30, 60), (10, 2, 30, 30)] {
        for kind in [NormKind::Rms, NormKind::Layer] {
            let norm = Norm { kind, epsilon: 1e-5 };
            let (gain, bias) = (numbers(gains, 3), numbers(gains, 4));
            let mut on_gpu = accelerator.upload(&x, columns).unwrap();
            let bias = kind.has_bias().then_some(bias.as_slice());
            accelerator.norm(&mut on_gpu, HeadColumns { first, heads, width }, norm, &gain, bias).unwrap();
            let mut twin = x.clone();
            for row in twin.chunks_exact_mut(columns) {
                for (head, x) in row[first..first + heads * width].chunks_exact_mut(width).enumerate() {
                    let at = if gains == width { 0 } else { head * width };
                    let centre = if kind.is_centred() { x.iter().sum::<f32>() / width as f32 } else { 0.0 };
                    let variance = x.iter().map(|x| (x - centre).powi(2)).sum::<f32>() / width as f32;
                    for (i, x) in x.iter_mut().enumerate() {
                        *x = (*x - centre) / (variance + 1e-5).sqrt() * gain[at + i] + bias.map_or(0.0, |b| b[at + i]);
                    }
                }
            }
            assert_close(&format!("{kind:?}, {heads} heads"), &accelerator.download(&on_gpu).unwrap(), &twin, 1e-5);
        }
    }
}

#[test]
fn heads_are_rotated_by_their_positions() {
    let accelerator = accelerator();
    let (length, columns, heads) = (5, 70, HeadColumns { first: 4, heads: 3, width: 16 });
    let x = numbers(2 * length * columns, 5);
    let angles: Vec<[f32; 2]> = (0..length * 6).map(|i| [(i as f32).cos(), (i as f32).sin()]).collect();
    let mut on_gpu = accelerator.upload(&x, columns).unwrap();
    accelerator.rotate(&mut on_gpu, heads, length, &angles).unwrap();
    let mut twin = x;
    for (row, x) in twin.chunks_exact_mut(columns).enumerate() {
        for head in x[4..4 + 48].chunks_exact_mut(16) {
            for pair in 0..6 {
                let ([cos, sin], a, b) = (angles[row % length * 6 + pair], head[pair], head[pair + 6]);
                (head[pair], head[pair + 6]) = (a * cos - b * sin, b * cos + a * sin);
            }
        }
    }
    assert_close("rotated", &accelerator.download(&on_gpu).unwrap(), &twin, 1e-6);
}

#[test]
fn activations_sums_and_biases_are_those_of_the_definition() {
    let mut accelerator = accelerator();
    let (rows, columns) = (300, 90);
    let x: Vec<f32> = numbers(rows * columns, 6).iter().map(|x| 4.0 * x).collect();
    let (bias, y) = (numbers(columns, 7), numbers(rows * columns, 8));
    for panel_bytes in [accelerator.panel_bytes, 128 * 96 * 4] {
        accelerator.panel_bytes = panel_bytes;
        let mut on_gpu = accelerator.upload(&x, columns).unwrap();
        let silu = |x: f32| x / (1.0 + (-x).exp());
        let gelu_tanh = |x: f32| 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh());
        let activated = accelerator.download(&accelerator.activate(&on_gpu, Activation::Silu, true).unwrap()).unwrap();
        let twin: Vec<f32> = x.chunks_exact(2).map(|pair| silu(pair[0]) * pair[1]).collect();
        assert_close("gated", &activated, &twin, 1e-5);
        let activated = accelerator.download(&accelerator.activate(&on_gpu, Activation::GeluTanh, false).unwrap()).unwrap();
        assert_close("not gated", &activated, &x.iter().map(|x| gelu_tanh(*x)).collect::<Vec<_>>(), 1e-5);
        accelerator.add_bias(&mut on_gpu, &bias).unwrap();
        let other = accelerator.upload(&y, columns).unwrap();
        accelerator.combine(&mut on_gpu, 0.5, &other, -0.5).unwrap();
        let twin: Vec<f32> = x.iter().zip(&y).enumerate().map(|(i, (x, y))| 0.5 * (x + bias[i % columns]) - 0.5 * y).collect();
        assert_close("combined", &accelerator.download(&on_gpu).unwrap(), &twin, 1e-5);
    }
}
