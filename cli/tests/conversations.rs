//! Conversations of decoders whose layers keep states, which cannot be cut anywhere as keys and values can: steps that run ahead
//! change no token, and a later turn goes on from what is kept.

mod common;
mod random_decoder;

use common::golden;
use haikuq_format::spec::{
    Activation, AltUp, Attention, AttentionGate, DeltaNet, GatedNorm, LayerSpec, Mamba2, Mlp, Norm, NormKind, PerLayerEmbedding,
    RopeTable, ShortConv,
};
use haikuq_format::{DecoderSpec, Scheme};
use haikuq_runtime::decoder::{CachePrecision, Decoder, DecoderOptions};
use haikuq_runtime::device::{Gpu, GpuOptions};
use haikuq_runtime::generate::{Completion, Conversation, FinishReason, GenerateOptions, Request, generate};
use haikuq_runtime::sampling::{SamplingOptions, uniform};
use haikuq_runtime::text::{Tokenizer, TokenizerFiles};
use pollster::block_on;
use random_decoder::RandomDecoder;
use rstest::rstest;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Ids of the decoders; the tokenizer knows more.
const VOCAB: usize = 301;

/// Tokens of a prefill step.
const CHUNK: usize = 32;

fn decoder(layers: Vec<LayerSpec>) -> RandomDecoder {
    RandomDecoder::new(&spec(layers), |_| Scheme::F32)
}

fn spec(layers: Vec<LayerSpec>) -> DecoderSpec {
    let mut spec = DecoderSpec::new(VOCAB, 72, 256, Norm { kind: NormKind::Rms, epsilon: 1e-5 }, layers);
    spec.ropes = vec![RopeTable::new((0..10).map(|i| 1e4f32.powf(-(i as f32) / 10.0)).collect())];
    spec
}

fn mlp() -> Mlp {
    Mlp::new(100, Activation::Silu)
}

fn gated() -> Attention {
    let mut attention = Attention::new(3, 1, 20);
    (attention.rope, attention.gate) = (Some(0), Some(AttentionGate::PerHead));
    attention
}

fn short_convolutions() -> RandomDecoder {
    let conv = |kernel_size| LayerSpec::new(ShortConv::new(72, kernel_size), mlp());
    decoder(vec![conv(3), LayerSpec::new(gated(), mlp()), conv(7)])
}

fn delta_nets() -> RandomDecoder {
    let net = |key_dim, value_dim| LayerSpec::new(DeltaNet::new(2, 4, key_dim, value_dim, 4), mlp());
    decoder(vec![net(20, 12), LayerSpec::new(gated(), mlp()), net(16, 24)])
}

fn mamba() -> RandomDecoder {
    let mut mixer = Mamba2::new(6, 12, 2, 20, 4);
    mixer.norm = Some(GatedNorm::AfterGate);
    let mut both = LayerSpec::new(gated(), mlp());
    both.beside = Some(mixer.into());
    decoder(vec![LayerSpec::new(mixer, mlp()), both, LayerSpec::new(Mamba2::new(5, 16, 1, 16, 3), None)])
}

/// Tokens bring numbers along, so that no step can run ahead; a layer sees the keys and values of another.
fn per_layer() -> RandomDecoder {
    let (mut first, mut second) = (Attention::new(3, 1, 20), Attention::new(6, 1, 20));
    (first.rope, first.values_are_keys, second.kv_from) = (Some(0), true, Some(0));
    let mut spec = spec(vec![LayerSpec::new(first, mlp()), LayerSpec::new(second, mlp())]);
    spec.per_layer_embedding = Some(PerLayerEmbedding::new(12, Activation::Silu));
    RandomDecoder::new(&spec, |_| Scheme::F32)
}

/// The same with several residual streams.
fn streams() -> RandomDecoder {
    let (mut first, mut second) = (Attention::new(3, 1, 20), Attention::new(6, 1, 20));
    (first.rope, first.value_norm, second.kv_from) = (Some(0), true, Some(0));
    let mut spec = spec(vec![LayerSpec::new(first, mlp()), LayerSpec::new(second, mlp())]);
    spec.per_layer_embedding = Some(PerLayerEmbedding::new(12, Activation::Silu));
    spec.altup = Some(AltUp::new(3));
    spec.layers.iter_mut().for_each(|l| l.laurel = Some(8));
    spec.mlps_mut().for_each(|m| m.gate_cutoff = Some(0.2));
    RandomDecoder::new(&spec, |_| Scheme::F32)
}

fn load(random: &RandomDecoder, steps_ahead: usize) -> Decoder {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).expect("an adapter; run scripts/setup.sh to install software Vulkan");
    let mut options = DecoderOptions::default();
    (options.cache, options.prefill_chunk) = (CachePrecision::F32, CHUNK);
    (options.exact, options.run_ahead) = (true, Some(steps_ahead));
    block_on(Decoder::load(Arc::new(gpu), &random.package(), &options, &mut |_| {})).unwrap()
}

fn tokenizer() -> Tokenizer {
    let json = std::fs::read(golden("tokenizer.json")).unwrap();
    Tokenizer::from_files(TokenizerFiles::new(&json)).unwrap()
}

fn ids(text: u64, len: usize) -> Vec<u32> {
    (0..len as u64).map(|i| (uniform(500 + text, i) * VOCAB as f32) as u32).collect()
}

fn options(max_tokens: usize) -> GenerateOptions {
    let mut options = GenerateOptions::default();
    options.max_tokens = Some(max_tokens);
    let sampling = &mut options.sampling;
    (sampling.temperature, sampling.top_k, sampling.repetition_penalty, sampling.seed) = (0.8, 40, 1.2, 7);
    options
}

/// One turn of a conversation.
fn turn(decoder: &mut Decoder, conversation: &mut Conversation, prompt: &[u32], options: &GenerateOptions) -> Completion {
    let mut requests = [Request::new(conversation, prompt, options)];
    block_on(generate(decoder, &tokenizer(), &mut requests, &mut |_| ControlFlow::Continue(()))).unwrap().remove(0)
}

/// The same in a conversation of its own.
fn alone(decoder: &mut Decoder, prompt: &[u32], options: &GenerateOptions) -> Completion {
    let mut conversation = Conversation::start(decoder).unwrap();
    let completion = turn(decoder, &mut conversation, prompt, options);
    conversation.end(decoder);
    completion
}

/// A token of a text that does not occur before, as late as there is one.
fn late_and_new(ids: &[u32]) -> u32 {
    let at = (0..ids.len()).rev().find(|i| !ids[..*i].contains(&ids[*i])).unwrap();
    assert!(at > ids.len() / 2, "this text says the same again and again: {ids:?}");
    ids[at]
}

#[rstest]
#[case::short_convolutions(short_convolutions())]
#[case::delta_nets(delta_nets())]
#[case::mamba(mamba())]
#[case::per_layer(per_layer())]
#[case::streams(streams())]
fn greedy_texts_are_those_of_the_reference_however_far_the_gpu_runs_ahead(#[case] random: RandomDecoder) {
    let mut greedy = options(40);
    greedy.sampling = SamplingOptions::greedy();
    let expected = random.reference().generate_greedy(&ids(0, 40), 40).unwrap();
    for steps_ahead in [0, 3] {
        assert_eq!(alone(&mut load(&random, steps_ahead), &ids(0, 40), &greedy).ids, expected, "{steps_ahead} steps ahead");
    }
}

#[rstest]
#[case::short_convolutions(short_convolutions(), true)]
#[case::delta_nets(delta_nets(), false)]
#[case::mamba(mamba(), false)]
#[case::per_layer(per_layer(), true)]
#[case::streams(streams(), true)]
fn a_turn_goes_on_from_one_that_ran_too_far(#[case] random: RandomDecoder, #[case] cut_anywhere: bool) {
    let prompt = ids(1, 40);
    let mut one_by_one = load(&random, 0);
    let whole = alone(&mut one_by_one, &prompt, &options(60));
    let mut stopped = options(60);
    stopped.stop_tokens.push(late_and_new(&whole.ids));
    let expected = alone(&mut one_by_one, &prompt, &stopped);
    assert!(expected.finish == FinishReason::Stop && expected.ids.len() < whole.ids.len());
    for steps_ahead in [1, 3, 8] {
        let mut ahead = load(&random, steps_ahead);
        assert_eq!(alone(&mut ahead, &prompt, &options(60)).ids, whole.ids, "{steps_ahead} steps ahead");
        let mut conversation = Conversation::start(&mut ahead).unwrap();
        let first = turn(&mut ahead, &mut conversation, &prompt, &stopped);
        assert_eq!((&first.ids, first.finish), (&expected.ids, expected.finish), "{steps_ahead} steps ahead");

        let second: Vec<u32> = [&prompt, &first.ids, &ids(2, 12)[..]].concat();
        let fresh = alone(&mut one_by_one, &second, &options(20));
        let completion = turn(&mut ahead, &mut conversation, &second, &options(20));
        assert_eq!(completion.ids, fresh.ids, "a second turn, {steps_ahead} steps ahead");
        // The last token of a text is chosen and not computed.
        let most = prompt.len() + first.ids.len();
        let reused = completion.usage.reused_tokens;
        let at_least = if cut_anywhere { most - 1 } else { prompt.len() };
        assert!((at_least..=most).contains(&reused), "{reused} tokens of {most} are used again");
        assert_eq!(fresh.usage.reused_tokens, 0);

        // The first answer is written anew from its middle.
        let edited: Vec<u32> = [&second[..prompt.len() + 9], &ids(3, 20)[..]].concat();
        let fresh = alone(&mut one_by_one, &edited, &options(20));
        let completion = turn(&mut ahead, &mut conversation, &edited, &options(20));
        assert_eq!(completion.ids, fresh.ids, "an edited turn, {steps_ahead} steps ahead");
        let reused = completion.usage.reused_tokens;
        assert!((prompt.len()..=prompt.len() + 9).contains(&reused), "{reused} tokens are used again");
        conversation.end(&mut ahead);
    }
}

#[rstest]
#[case::short_convolutions(short_convolutions())]
#[case::delta_nets(delta_nets())]
#[case::mamba(mamba())]
fn texts_of_a_batch_are_those_that_each_is_alone(#[case] random: RandomDecoder) {
    let prompts = [ids(4, 40), ids(5, 3), ids(6, 33)];
    let lengths = [options(11), options(50), options(24)];
    let mut one_by_one = load(&random, 0);
    let expected: Vec<_> = prompts.iter().zip(&lengths).map(|(prompt, o)| alone(&mut one_by_one, prompt, o).ids).collect();
    for steps_ahead in [0, 3] {
        let mut decoder = load(&random, steps_ahead);
        let mut conversations: Vec<_> = prompts.iter().map(|_| Conversation::start(&mut decoder).unwrap()).collect();
        let mut requests: Vec<_> = (conversations.iter_mut().zip(&prompts).zip(&lengths))
            .map(|((conversation, prompt), options)| Request::new(conversation, prompt, options))
            .collect();
        let texts = block_on(generate(&mut decoder, &tokenizer(), &mut requests, &mut |_| ControlFlow::Continue(()))).unwrap();
        let found: Vec<_> = texts.into_iter().map(|text| text.ids).collect();
        assert_eq!(found, expected, "{steps_ahead} steps ahead");
    }
}
