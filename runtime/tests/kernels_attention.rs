//! The attention kernels, for decoding and for prefill, agree with their CPU twin.

mod support;

use haikuq_runtime::device::Gpu;
use haikuq_runtime::kernels::attention::{self, AttentionBuffers, AttentionShape, CpuCache, Scores, Token};
use haikuq_runtime::kernels::attention_decode::{AttentionDecode, splits};
use haikuq_runtime::kernels::attention_prefill::AttentionPrefill;
use haikuq_runtime::kernels::attention_split::{self, AttentionSplit, Combine};
use haikuq_runtime::kernels::{attention_prefill_matrices, attention_prefill_tile, attention_prefill_whole};
use half::f16;
use rstest::rstest;
use support::{Random, assert_close, gpu, pages_for, run, scattered_pages, token};

/// Sums of a few hundred products of numbers around 1, in another order than the twin's and in f32.
const TOLERANCE: f32 = 1e-5;

/// A cache full of random numbers, beyond the sequences' ends too.
fn random_cache(random: &mut Random, shape: AttentionShape, sequences: usize) -> CpuCache {
    let (pages, num_pages) = scattered_pages(random, &shape, sequences);
    let mut cache = CpuCache::new(shape, pages, num_pages);
    let rounded = |x: f32| if shape.cache_f16 { f16::from_f32(x).to_f32() } else { x };
    cache.keys.iter_mut().chain(&mut cache.values).for_each(|x| *x = rounded(2.0 * random.value()));
    cache
}

fn upload_pool(gpu: &Gpu, shape: AttentionShape, values: &[f32]) -> wgpu::Buffer {
    if shape.cache_f16 {
        gpu.upload("pool", &values.iter().map(|x| f16::from_f32(*x)).collect::<Vec<_>>())
    } else {
        gpu.upload("pool", values)
    }
}

#[derive(Clone, Copy, Debug)]
enum Which {
    Decode { splits: u32 },
    Split { splits: u32, least_pages: u32, combine: Combine },
    Prefill,
    PrefillTile,
    PrefillWhole,
    PrefillMatrices,
}

/// The kernels for prefill that this device and shape have, with the tolerance of each where scores are within ±10. For
/// matrices, queries and weights are rounded to f16: a score of 10 is off by up to 10 × 2⁻¹¹ / √dimensions or so, and so
/// are the results, which are of size 2.
fn prefills(gpu: &Gpu, shape: &AttentionShape) -> Vec<(Which, f32)> {
    let mut kernels = vec![(Which::Prefill, TOLERANCE), (Which::PrefillTile, TOLERANCE), (Which::PrefillWhole, TOLERANCE)];
    if attention_prefill_matrices::fits(&gpu.profile, shape) {
        kernels.push((Which::PrefillMatrices, 4e-3));
    } else if gpu.profile.matrices.is_empty() {
        println!("attention_prefill_matrices is not tested: no cooperative matrices on {}", gpu.description.name);
    }
    kernels
}

fn run_kernel(gpu: &Gpu, which: Which, scores: Scores, cache: &CpuCache, tokens: &[Token], q: &[f32]) -> Vec<f32> {
    let shape = cache.shape;
    let num_tokens = tokens.len() as u32;
    // Not zero before, so that padding shows what the kernel wrote.
    let output = gpu.upload("output", &vec![7.0f32; q.len()]);
    let (q_buffer, tokens_buffer, pages) = (gpu.upload("q", q), gpu.upload("tokens", tokens), gpu.upload("pages", &cache.pages));
    let (keys, values) = (upload_pool(gpu, shape, &cache.keys), upload_pool(gpu, shape, &cache.values));
    let sinks = (!cache.sinks.is_empty()).then(|| gpu.upload("sinks", &cache.sinks));
    let buffers = AttentionBuffers {
        q: (&q_buffer).into(),
        tokens: (&tokens_buffer).into(),
        pages: (&pages).into(),
        keys: (&keys).into(),
        values: (&values).into(),
        sinks: sinks.as_ref().map(Into::into),
        output: (&output).into(),
    };
    let dispatches = match which {
        Which::Decode { splits } => {
            let scratch = gpu.storage("scratch", AttentionDecode::scratch_bytes(num_tokens, &shape, splits));
            AttentionDecode { num_tokens, shape, scores, splits, buffers, scratch: (&scratch).into() }.bind(gpu).unwrap()
        }
        Which::Split { splits, least_pages, combine } => {
            let scratch = gpu.storage("scratch", AttentionSplit::scratch_bytes(num_tokens, &shape, splits));
            let scratch = (&scratch).into();
            let kernel = AttentionSplit { num_tokens, shape, scores, splits, least_pages, combine, buffers, scratch };
            let dispatches = kernel.bind(gpu).unwrap();
            // The counters are left ready for the next time.
            [dispatches.clone(), dispatches.clone(), dispatches].concat()
        }
        Which::Prefill => vec![AttentionPrefill { num_tokens, shape, scores, buffers }.bind(gpu).unwrap()],
        Which::PrefillTile => {
            let scratch = gpu.storage("scratch", attention_prefill_tile::scratch_bytes(num_tokens, &shape, scores.window));
            let job = AttentionPrefill { num_tokens, shape, scores, buffers };
            attention_prefill_tile::bind(gpu, &job, &(&scratch).into()).unwrap()
        }
        Which::PrefillWhole => {
            let job = AttentionPrefill { num_tokens, shape, scores, buffers };
            attention_prefill_whole::bind(gpu, &job, &(&gpu.storage("scratch", 16)).into()).unwrap()
        }
        Which::PrefillMatrices => {
            let scratch = gpu.storage("scratch", attention_prefill_matrices::scratch_bytes(num_tokens, &shape, scores.window));
            let job = AttentionPrefill { num_tokens, shape, scores, buffers };
            attention_prefill_matrices::bind(gpu, &job, &(&scratch).into()).unwrap()
        }
    };
    run(gpu, &dispatches.iter().collect::<Vec<_>>(), &output, q.len())
}

fn plain(shape: &AttentionShape) -> Scores {
    Scores { scale: 1.0 / (shape.head_dim as f32).sqrt(), window: None, softcap: None }
}

fn queries(random: &mut Random, shape: &AttentionShape, tokens: usize) -> Vec<f32> {
    random.rows(tokens, shape.attention_size() as usize, shape.pitch() as usize)
}

#[rstest]
#[case::one_query_head_a_key_head(3, 3, 64)]
#[case::two(4, 2, 80)]
#[case::three(3, 1, 16)]
#[case::four(8, 2, 128)]
#[case::five(5, 1, 4)]
#[case::eight(16, 2, 64)]
#[case::more_than_one_workgroup_holds(11, 1, 36)]
#[case::wide(8, 1, 256)]
#[case::widest(8, 1, 512)]
#[case::wider_than_a_workgroup(5, 1, 260)]
fn decode_agrees_for_sequences_of_different_lengths(
    #[case] num_heads: u32,
    #[case] num_kv_heads: u32,
    #[case] head_dim: u32,
    #[values(false, true)] cache_f16: bool,
) {
    let shape = AttentionShape { num_heads, num_kv_heads, head_dim, max_pages: pages_for(400), cache_f16 };
    let mut random = Random::new(u64::from(num_heads * head_dim));
    let cache = random_cache(&mut random, shape, 5);
    let tokens = [token(0, 3), token(63, 0), token(64, 4), Token::IDLE, token(397, 1), token(150, 2)];
    let q = queries(&mut random, &shape, tokens.len());
    let expected = attention::cpu(plain(&shape), &cache, &tokens, &q);
    let gpu = gpu();
    for splits in [1, 3, 8] {
        let found = run_kernel(&gpu, Which::Decode { splits }, plain(&shape), &cache, &tokens, &q);
        assert_close(&format!("{splits} splits"), &found, &expected, TOLERANCE);
    }
}

#[rstest]
#[case::one_query_head_a_key_head(3, 3, 64, 45, 0)]
#[case::grouped(4, 2, 80, 33, 100)]
#[case::narrow(3, 1, 16, 70, 63)]
#[case::wide(4, 1, 128, 64, 64)]
#[case::smallest(5, 1, 4, 1, 10)]
#[case::three_chunks(8, 1, 92, 31, 7)]
#[case::wide_enough_for_eight_chunks(2, 1, 256, 40, 129)]
#[case::widest(2, 1, 512, 40, 129)]
#[case::wider_than_eight_chunks(3, 1, 300, 21, 600)]
#[case::widest_in_a_group_in_parts(8, 1, 512, 70, 900)]
#[case::halves_of_nine_pieces(4, 2, 288, 33, 40)]
#[case::group_of_three(6, 2, 64, 37, 50)]
#[case::group_of_four_in_parts(4, 1, 32, 5, 900)]
#[case::group_of_eight_in_parts(8, 1, 48, 41, 1000)]
#[case::group_of_three_in_parts(3, 1, 128, 30, 530)]
fn prefill_agrees_from_any_position_on(
    #[case] num_heads: u32,
    #[case] num_kv_heads: u32,
    #[case] head_dim: u32,
    #[case] count: usize,
    #[case] start: usize,
    #[values(false, true)] cache_f16: bool,
) {
    let shape = AttentionShape { num_heads, num_kv_heads, head_dim, max_pages: pages_for(start + count), cache_f16 };
    let mut random = Random::new(u64::from(head_dim));
    let cache = random_cache(&mut random, shape, 3);
    let tokens: Vec<_> = (start..start + count).map(|p| token(p, 1)).collect();
    let q = queries(&mut random, &shape, count);
    let expected = attention::cpu(plain(&shape), &cache, &tokens, &q);
    let gpu = gpu();
    for (which, tolerance) in prefills(&gpu, &shape) {
        let found = run_kernel(&gpu, which, plain(&shape), &cache, &tokens, &q);
        assert_close(&format!("{which:?}"), &found, &expected, tolerance);
    }
}

#[rstest]
#[case(1, 3)]
#[case(7, 40)]
#[case(64, 21)]
#[case(700, 33)]
fn windows_hold_where_keys_are_cut_into_parts(#[case] window: u32, #[case] count: usize) {
    let shape = AttentionShape { num_heads: 6, num_kv_heads: 2, head_dim: 32, max_pages: pages_for(1200), cache_f16: true };
    let scores = Scores { window: Some(window), ..plain(&shape) };
    let mut random = Random::new(u64::from(window));
    let cache = random_cache(&mut random, shape, 2);
    let mut tokens: Vec<_> = (1100..1100 + count).map(|p| token(p, 1)).collect();
    tokens.resize(count + 30, Token::IDLE);
    let q = queries(&mut random, &shape, tokens.len());
    let expected = attention::cpu(scores, &cache, &tokens, &q);
    let gpu = gpu();
    for (which, tolerance) in prefills(&gpu, &shape) {
        let found = run_kernel(&gpu, which, scores, &cache, &tokens, &q);
        assert_close(&format!("{which:?}"), &found, &expected, tolerance);
    }
}

/// Keys that grow, so that the largest score rises tile after tile, in steps small and large, and stays behind at the end.
#[rstest]
#[case::slowly(0.02)]
#[case::fast(0.4)]
fn largest_scores_may_rise_with_every_tile(#[case] slope: f32) {
    let shape = AttentionShape { num_heads: 3, num_kv_heads: 1, head_dim: 64, max_pages: pages_for(400), cache_f16: true };
    let mut random = Random::new(9);
    let mut cache = random_cache(&mut random, shape, 1);
    let rounded = |x: f32| f16::from_f32(x).to_f32();
    for position in 0..340 {
        let keys: Vec<f32> = (0..64).map(|_| rounded(slope * position.min(300) as f32 / 8.0 + 0.1 * random.value())).collect();
        let values: Vec<f32> = random.values(64);
        cache.set(0, position, 0, &keys, &values);
    }
    let tokens: Vec<_> = (290..333).map(|p| token(p, 0)).collect();
    let q: Vec<f32> = queries(&mut random, &shape, tokens.len()).iter().map(|x| rounded(x + 1.0)).collect();
    let expected = attention::cpu(plain(&shape), &cache, &tokens, &q);
    let gpu = gpu();
    for (which, tolerance) in prefills(&gpu, &shape) {
        let found = run_kernel(&gpu, which, plain(&shape), &cache, &tokens, &q);
        // Scores reach 150: their own rounding is 150 × 2⁻²³ times what the exponential makes of it.
        assert_close(&format!("{which:?}"), &found, &expected, tolerance.max(2e-4) * 4.0);
    }
}

#[rstest]
#[case(None, Some(5.0))]
#[case(Some(1), None)]
#[case(Some(7), Some(2.0))]
#[case(Some(64), None)]
#[case(Some(100), Some(30.0))]
#[case(Some(1000), None)]
fn windows_and_soft_caps_shape_the_scores(
    #[case] window: Option<u32>,
    #[case] softcap: Option<f32>,
    #[values(false, true)] cache_f16: bool,
) {
    let shape = AttentionShape { num_heads: 4, num_kv_heads: 2, head_dim: 32, max_pages: 5, cache_f16 };
    // A large scale, so that the cap bends and the softmax is peaked.
    let scores = Scores { scale: 1.0, window, softcap };
    let mut random = Random::new(3);
    let cache = random_cache(&mut random, shape, 2);
    let gpu = gpu();
    let tokens = [token(5, 0), token(300, 1)];
    let q = queries(&mut random, &shape, tokens.len());
    let expected = attention::cpu(scores, &cache, &tokens, &q);
    for splits in [1, 4] {
        let found = run_kernel(&gpu, Which::Decode { splits }, scores, &cache, &tokens, &q);
        assert_close(&format!("decode with {splits} splits"), &found, &expected, 2e-5);
    }
    let tokens: Vec<_> = (90..190).map(|p| token(p, 1)).collect();
    let q = queries(&mut random, &shape, tokens.len());
    let expected = attention::cpu(scores, &cache, &tokens, &q);
    for (which, tolerance) in prefills(&gpu, &shape) {
        let found = run_kernel(&gpu, which, scores, &cache, &tokens, &q);
        assert_close(&format!("{which:?}"), &found, &expected, 2.0 * tolerance);
    }
}

/// Sinks below all scores, among them and far above, for each way of putting results together.
#[rstest]
fn sinks_take_their_share_and_have_no_value(#[values(false, true)] cache_f16: bool) {
    let shape = AttentionShape { num_heads: 6, num_kv_heads: 2, head_dim: 32, max_pages: pages_for(700), cache_f16 };
    let scores = Scores { window: Some(600), ..plain(&shape) };
    let mut random = Random::new(12);
    let mut cache = random_cache(&mut random, shape, 2);
    cache.sinks = vec![-20.0, 0.5, 3.0, 8.0, 200.0, -1.0];
    let gpu = gpu();
    let tokens = [token(5, 0), Token::IDLE, token(660, 1)];
    let q = queries(&mut random, &shape, tokens.len());
    let expected = attention::cpu(scores, &cache, &tokens, &q);
    let mut decodes: Vec<_> = [1, 4].map(|splits| Which::Decode { splits }).into();
    if attention_split::fits(&gpu.profile, &shape) {
        let divisions = [(1, Combine::Last), (4, Combine::Last), (4, Combine::Apart)];
        decodes.extend(divisions.map(|(splits, combine)| Which::Split { splits, least_pages: 1, combine }));
    }
    for which in decodes {
        assert_close(&format!("{which:?}"), &run_kernel(&gpu, which, scores, &cache, &tokens, &q), &expected, TOLERANCE);
    }
    // A few rows, whose keys are cut into parts, and many.
    for (first, count) in [(650, 9), (0, 130)] {
        let tokens: Vec<_> = (first..first + count).map(|p| token(p, 1)).collect();
        let q = queries(&mut random, &shape, count);
        let expected = attention::cpu(scores, &cache, &tokens, &q);
        for (which, tolerance) in prefills(&gpu, &shape) {
            let found = run_kernel(&gpu, which, scores, &cache, &tokens, &q);
            assert_close(&format!("{which:?} of {count}"), &found, &expected, tolerance);
        }
    }
}

#[rstest]
fn idle_tokens_at_the_end_of_a_prefill_are_zero_and_change_nothing(
    #[values((20, false), (48, true))] (head_dim, cache_f16): (u32, bool),
) {
    let shape = AttentionShape { num_heads: 2, num_kv_heads: 1, head_dim, max_pages: 2, cache_f16 };
    let mut random = Random::new(4);
    let cache = random_cache(&mut random, shape, 2);
    let mut tokens: Vec<_> = (0..40).map(|p| token(p, 1)).collect();
    tokens.resize(100, Token::IDLE);
    let q = queries(&mut random, &shape, tokens.len());
    let expected = attention::cpu(plain(&shape), &cache, &tokens, &q);
    let gpu = gpu();
    for (which, tolerance) in prefills(&gpu, &shape) {
        let found = run_kernel(&gpu, which, plain(&shape), &cache, &tokens, &q);
        assert_close(&format!("{which:?}"), &found, &expected, tolerance);
    }
}

#[test]
fn company_changes_no_bit_of_a_decode() {
    let shape = AttentionShape { num_heads: 8, num_kv_heads: 2, head_dim: 64, max_pages: 6, cache_f16: true };
    let splits = splits(&shape, None);
    assert!(splits > 1);
    let mut random = Random::new(6);
    let cache = random_cache(&mut random, shape, 4);
    let tokens = [token(380, 2), token(9, 0), token(200, 3), token(64, 1)];
    let q = queries(&mut random, &shape, tokens.len());
    let gpu = gpu();
    let pitch = shape.pitch() as usize;
    let together = run_kernel(&gpu, Which::Decode { splits }, plain(&shape), &cache, &tokens, &q);
    for (t, token) in tokens.iter().enumerate() {
        let q = &q[t * pitch..][..pitch];
        let alone = run_kernel(&gpu, Which::Decode { splits }, plain(&shape), &cache, &[*token], q);
        assert_eq!(alone, together[t * pitch..][..pitch]);
    }
}

#[test]
fn cutting_a_prompt_changes_no_bit_of_a_prefill() {
    let shape = AttentionShape { num_heads: 2, num_kv_heads: 1, head_dim: 48, max_pages: 3, cache_f16: false };
    let scores = Scores { window: Some(50), ..plain(&shape) };
    let mut random = Random::new(8);
    let cache = random_cache(&mut random, shape, 1);
    let tokens: Vec<_> = (0..150).map(|p| token(p, 0)).collect();
    let q = queries(&mut random, &shape, tokens.len());
    let gpu = gpu();
    let cut = 37;
    let (first, second) = q.split_at(cut * shape.pitch() as usize);
    for which in [Which::Prefill, Which::PrefillWhole] {
        let mut pieces = run_kernel(&gpu, which, scores, &cache, &tokens[..cut], first);
        pieces.extend(run_kernel(&gpu, which, scores, &cache, &tokens[cut..], second));
        assert_eq!(pieces, run_kernel(&gpu, which, scores, &cache, &tokens, &q));
    }
}

#[test]
fn huge_scores_do_not_overflow() {
    let shape = AttentionShape { num_heads: 1, num_kv_heads: 1, head_dim: 16, max_pages: 2, cache_f16: false };
    let mut random = Random::new(11);
    let cache = random_cache(&mut random, shape, 1);
    let tokens = [token(99, 0)];
    for (scale, softcap) in [(1e6, None), (1e6, Some(30.0))] {
        let scores = Scores { scale, window: None, softcap };
        let q = queries(&mut random, &shape, 1);
        let expected = attention::cpu(scores, &cache, &tokens, &q);
        for which in [Which::Decode { splits: 2 }, Which::Prefill, Which::PrefillTile] {
            assert_close("output", &run_kernel(&gpu(), which, scores, &cache, &tokens, &q), &expected, TOLERANCE);
        }
    }
}

#[rstest]
#[case::one_query_head_a_key_head(3, 3, 64)]
#[case::two(4, 2, 40)]
#[case::three(3, 1, 16)]
#[case::four(8, 2, 64)]
#[case::five(5, 1, 8)]
#[case::eight(16, 2, 56)]
#[case::widest(6, 2, 256)]
fn split_decode_agrees_for_sequences_of_different_lengths(
    #[case] num_heads: u32,
    #[case] num_kv_heads: u32,
    #[case] head_dim: u32,
    #[values(false, true)] cache_f16: bool,
) {
    let shape = AttentionShape { num_heads, num_kv_heads, head_dim, max_pages: pages_for(400), cache_f16 };
    let gpu = gpu();
    if !attention_split::fits(&gpu.profile, &shape) {
        println!("skipped: subgroups of {} do not hold heads of {head_dim}", gpu.profile.subgroup_min_size);
        return;
    }
    let mut random = Random::new(u64::from(num_heads * head_dim));
    let cache = random_cache(&mut random, shape, 5);
    let tokens = [token(0, 3), token(63, 0), token(64, 4), Token::IDLE, token(397, 1), token(150, 2)];
    let q = queries(&mut random, &shape, tokens.len());
    let expected = attention::cpu(plain(&shape), &cache, &tokens, &q);
    let divisions = [(1, 1), (3, 1), (8, 2)].into_iter().flat_map(|(s, l)| [(s, l, Combine::Last), (s, l, Combine::Apart)]);
    for (splits, least_pages, combine) in divisions {
        let which = Which::Split { splits, least_pages, combine };
        let found = run_kernel(&gpu, which, plain(&shape), &cache, &tokens, &q);
        assert_close(&format!("{splits} splits"), &found, &expected, TOLERANCE);
        // Company changes no bit.
        let pitch = shape.pitch() as usize;
        let alone = run_kernel(&gpu, which, plain(&shape), &cache, &tokens[4..5], &q[4 * pitch..5 * pitch]);
        assert_eq!(alone, found[4 * pitch..5 * pitch]);
    }
}

#[rstest]
#[case(None, Some(5.0))]
#[case(Some(1), None)]
#[case(Some(7), Some(2.0))]
#[case(Some(64), None)]
#[case(Some(100), Some(30.0))]
#[case(Some(1000), None)]
fn split_decode_knows_windows_and_soft_caps(#[case] window: Option<u32>, #[case] softcap: Option<f32>) {
    let shape = AttentionShape { num_heads: 4, num_kv_heads: 2, head_dim: 32, max_pages: 5, cache_f16: false };
    let gpu = gpu();
    if !attention_split::fits(&gpu.profile, &shape) {
        println!("skipped: subgroups of {} do not hold heads of 32", gpu.profile.subgroup_min_size);
        return;
    }
    let scores = Scores { scale: 1.0, window, softcap };
    let mut random = Random::new(3);
    let cache = random_cache(&mut random, shape, 2);
    let tokens = [token(5, 0), token(300, 1)];
    let q = queries(&mut random, &shape, tokens.len());
    let expected = attention::cpu(scores, &cache, &tokens, &q);
    for (splits, combine) in [(1, Combine::Last), (4, Combine::Last), (4, Combine::Apart)] {
        let found = run_kernel(&gpu, Which::Split { splits, least_pages: 1, combine }, scores, &cache, &tokens, &q);
        assert_close(&format!("{splits} splits"), &found, &expected, 2e-5);
    }
}
