//! `rope_cache` agrees with its CPU twin.

mod support;

use haikuq_format::layout::padded;
use haikuq_format::spec::{LongRope, Norm, NormKind, QkNorm, QueryScaling, RopeTable};
use haikuq_runtime::device::Gpu;
use haikuq_runtime::kernels::attention::{AttentionShape, CpuCache, Token};
use haikuq_runtime::kernels::rope_cache::{self, CpuSteps, QkNormalization, Rope, RopeCache};
use rstest::rstest;
use support::{Random, assert_close, gpu, permutations, read, scattered_pages, token};

/// What the kernel made: queries, keys, values.
type Outcome = (Vec<f32>, Vec<f32>, Vec<f32>);

/// Values of a pool, widened to f32.
fn read_pool(gpu: &Gpu, shape: AttentionShape, buffer: &wgpu::Buffer, count: usize) -> Vec<f32> {
    if shape.cache_f16 {
        read::<half::f16>(gpu, buffer, count).unwrap().into_iter().map(f32::from).collect()
    } else {
        read(gpu, buffer, count).unwrap()
    }
}

fn run_kernel(gpu: &Gpu, cache: &CpuCache, steps: CpuSteps<'_>, tokens: &[Token], qkv: &[f32]) -> Outcome {
    let CpuSteps { rope, qk_norm, norm_after_rope, query_scaling, lacks, value_norm } = steps;
    let shape = cache.shape;
    let num_pages = cache.keys.len() as u64 * if shape.cache_f16 { 2 } else { 4 } / shape.page_bytes();
    let pool = |name| gpu.storage(name, num_pages * shape.page_bytes());
    let (keys, values) = (pool("keys"), pool("values"));
    let count = tokens.len() * shape.pitch() as usize;
    let q = gpu.upload("q", &vec![7.0f32; count]);
    let inv_freq = rope.map(|r| gpu.upload("inv_freq", &rope_cache::frequencies(r)));
    let parameters = qk_norm.map(|(.., p)| gpu.upload("norm", p));
    let (qkv, tokens_buffer, pages) = (gpu.upload("qkv", qkv), gpu.upload("tokens", tokens), gpu.upload("pages", &cache.pages));
    let kernel = RopeCache {
        num_tokens: tokens.len() as u32,
        shape,
        rope: rope.zip(inv_freq.as_ref()).map(|(r, buffer)| Rope {
            inv_freq: buffer.into(),
            rotated: r.inv_freq.len() as u32,
            factor: r.factor,
        }),
        qk_norm: qk_norm.zip(parameters.as_ref()).map(|((kind, norm, _), buffer)| QkNormalization {
            kind,
            after_rope: norm_after_rope,
            norm,
            parameters: buffer.into(),
        }),
        query_scaling,
        own_kv: 2 - lacks,
        value_norm,
        qkv: (&qkv).into(),
        qkv_stride: padded(width(&shape, lacks)),
        tokens: (&tokens_buffer).into(),
        pages: (&pages).into(),
        q: (&q).into(),
        keys: (&keys).into(),
        values: (&values).into(),
    };
    gpu.run(&[&kernel.bind(gpu).unwrap()]);
    let pool = |buffer| read_pool(gpu, shape, buffer, cache.keys.len());
    (read(gpu, &q, count).unwrap(), pool(&keys), pool(&values))
}

/// Numbers of a row that lacks values (1), or keys and values (2).
fn width(shape: &AttentionShape, lacks: u32) -> usize {
    (shape.qkv_size() - lacks * shape.num_kv_heads * shape.head_dim) as usize
}

fn llama_table(head_dim: usize) -> RopeTable {
    let inv_freq = (0..head_dim / 2).map(|i| 10000f32.powf(-2.0 * i as f32 / head_dim as f32)).collect();
    RopeTable::new(inv_freq)
}

#[rstest]
#[case::llama(8, 2, 64, 32)]
#[case::one_query_head_a_key_head(3, 3, 16, 8)]
#[case::partly_rotated_odd(5, 1, 80, 11)]
#[case::wide(4, 1, 256, 128)]
#[case::widest(2, 1, 512, 256)]
#[case::wider_than_a_workgroup(3, 1, 260, 40)]
#[case::no_rope(8, 2, 64, 0)]
#[case::smallest(2, 1, 4, 1)]
fn queries_are_rotated_and_keys_and_values_land_on_their_pages(
    #[case] num_heads: u32,
    #[case] num_kv_heads: u32,
    #[case] head_dim: u32,
    #[case] rotated: usize,
    #[values(false, true)] cache_f16: bool,
) {
    let shape = AttentionShape { num_heads, num_kv_heads, head_dim, max_pages: 4, cache_f16 };
    let mut random = Random::new(head_dim as u64);
    let (pages, num_pages) = scattered_pages(&mut random, &shape, 3);
    let long = |t: Token| Token { long: 1, ..t };
    let tokens = [token(0, 1), token(200, 0), Token::IDLE, long(token(63, 2)), long(token(64, 1))];
    let qkv = random.rows(tokens.len(), shape.qkv_size() as usize, padded(shape.qkv_size() as usize));
    let mut table = llama_table(2 * rotated.max(1));
    table.factor = 1.25;
    table.long = Some(LongRope::new(60, table.inv_freq.iter().map(|f| f / 3.0).collect()));
    let steps = CpuSteps { rope: Some(&table).filter(|_| rotated > 0), ..CpuSteps::default() };
    for (name, gpu) in permutations() {
        let mut cache = CpuCache::new(shape, pages.clone(), num_pages);
        let (q, keys, values) = run_kernel(&gpu, &cache, steps, &tokens, &qkv);
        let expected = rope_cache::cpu(&mut cache, steps, &tokens, &qkv);
        assert_close(&format!("{name}, queries"), &q, &expected, 1e-6);
        // An f16 next to a rounding boundary may fall to either side: one unit in the last place.
        let tolerance = if cache_f16 { 1e-3 } else { 1e-6 };
        assert_close(&format!("{name}, keys"), &keys, &cache.keys, tolerance);
        assert_eq!(values, cache.values, "{name}: values are copied, not computed");
    }
}

#[rstest]
fn queries_and_keys_are_normalized_by_head_or_as_a_whole(
    #[values(
        (QkNorm::PerHead, NormKind::Rms),
        (QkNorm::PerHead, NormKind::Layer),
        (QkNorm::PerHead, NormKind::LayerNoBias),
        (QkNorm::Whole, NormKind::Rms),
        (QkNorm::Whole, NormKind::Layer),
        (QkNorm::EachHead(NormKind::Rms), NormKind::Layer),
        (QkNorm::EachHead(NormKind::Layer), NormKind::Rms),
        (QkNorm::EachHead(NormKind::LayerNoBias), NormKind::Layer)
    )]
    (kind, norm_kind): (QkNorm, NormKind),
    #[values((6, 2, 32), (4, 1, 80), (6, 2, 20), (2, 1, 256))] (num_heads, num_kv_heads, head_dim): (u32, u32, u32),
    #[values(false, true)] norm_after_rope: bool,
) {
    let shape = AttentionShape { num_heads, num_kv_heads, head_dim, max_pages: 1, cache_f16: false };
    let mut random = Random::new(9);
    let (pages, num_pages) = scattered_pages(&mut random, &shape, 2);
    let tokens = [token(3, 1), token(17, 0)];
    let qkv = random.rows(2, shape.qkv_size() as usize, padded(shape.qkv_size() as usize));
    let norm = Norm { kind: norm_kind, epsilon: 1e-6 };
    let gains: usize = [num_heads, num_kv_heads].map(|heads| kind.gains(heads as usize, head_dim as usize)).iter().sum();
    let parameters = random.values(gains * if kind.norm(norm).kind.has_bias() { 2 } else { 1 });
    let qk_norm = Some((kind, norm, parameters.as_slice()));
    // Not all dimensions turn, and those that do grow: a norm after rope is another one.
    let mut table = llama_table(head_dim as usize - 4);
    table.factor = 1.3;
    let steps = CpuSteps { rope: Some(&table), qk_norm, norm_after_rope, ..CpuSteps::default() };
    for (name, gpu) in permutations() {
        let mut cache = CpuCache::new(shape, pages.clone(), num_pages);
        let (q, keys, _) = run_kernel(&gpu, &cache, steps, &tokens, &qkv);
        let expected = rope_cache::cpu(&mut cache, steps, &tokens, &qkv);
        assert_close(&format!("{name}, queries"), &q, &expected, 5e-6);
        assert_close(&format!("{name}, keys"), &keys, &cache.keys, 5e-6);
    }
}

#[rstest]
fn values_may_be_keys_or_those_of_another_layer_and_have_norms(
    #[values(0, 1, 2)] lacks: u32,
    #[values((6, 2, 32), (3, 1, 20), (2, 1, 512))] (num_heads, num_kv_heads, head_dim): (u32, u32, u32),
    #[values(None, Some(QkNorm::PerHead), Some(QkNorm::EachHead(NormKind::Layer)))] kind: Option<QkNorm>,
) {
    let shape = AttentionShape { num_heads, num_kv_heads, head_dim, max_pages: 1, cache_f16: false };
    let mut random = Random::new(12);
    let (pages, num_pages) = scattered_pages(&mut random, &shape, 2);
    let tokens = [token(3, 1), Token::IDLE, token(17, 0)];
    let qkv = random.rows(3, width(&shape, lacks), padded(width(&shape, lacks)));
    let norm = Norm { kind: NormKind::Rms, epsilon: 1e-3 };
    let own = if lacks == 2 { &[num_heads][..] } else { &[num_heads, num_kv_heads] };
    let parameters = kind.map(|kind| {
        let gains: usize = own.iter().map(|heads| kind.gains(*heads as usize, head_dim as usize)).sum();
        random.values(gains * if kind.norm(norm).kind.has_bias() { 2 } else { 1 })
    });
    let qk_norm = kind.zip(parameters.as_deref()).map(|(kind, parameters)| (kind, norm, parameters));
    let table = llama_table(head_dim as usize - 4);
    let value_norm = (lacks < 2).then_some(1e-3);
    let steps = CpuSteps { rope: Some(&table), qk_norm, lacks, value_norm, ..CpuSteps::default() };
    for (name, gpu) in permutations() {
        let mut cache = CpuCache::new(shape, pages.clone(), num_pages);
        let (q, keys, values) = run_kernel(&gpu, &cache, steps, &tokens, &qkv);
        let expected = rope_cache::cpu(&mut cache, steps, &tokens, &qkv);
        assert_close(&format!("{name}, queries"), &q, &expected, 5e-6);
        assert_close(&format!("{name}, keys"), &keys, &cache.keys, 5e-6);
        assert_close(&format!("{name}, values"), &values, &cache.values, 5e-6);
        assert_eq!(values.iter().all(|x| *x == 0.0), lacks == 2, "a layer that sees another one's writes nothing");
    }
}

#[test]
fn queries_alone_grow_with_the_logarithm_of_their_position() {
    let shape = AttentionShape { num_heads: 3, num_kv_heads: 1, head_dim: 20, max_pages: 2048, cache_f16: false };
    let mut random = Random::new(6);
    // On both sides of where a factor begins.
    let tokens: Vec<_> = [0, 9, 10, 11, 19, 20, 131_069, 131_070].map(|p| token(p, 0)).to_vec();
    let qkv = random.rows(tokens.len(), shape.qkv_size() as usize, padded(shape.qkv_size() as usize));
    let mut pages = random.permutation(2048);
    pages.iter_mut().for_each(|p| *p %= 8);
    let table = llama_table(12);
    let query_scaling = Some(QueryScaling { beta: 0.3, original_context: 10 });
    for rope in [None, Some(&table)] {
        let steps = CpuSteps { rope, query_scaling, ..CpuSteps::default() };
        for (name, gpu) in permutations() {
            let mut cache = CpuCache::new(shape, pages.clone(), 8);
            let (q, keys, _) = run_kernel(&gpu, &cache, steps, &tokens, &qkv);
            let expected = rope_cache::cpu(&mut cache, steps, &tokens, &qkv);
            assert_close(&format!("{name}, queries"), &q, &expected, 1e-6);
            assert_close(&format!("{name}, keys"), &keys, &cache.keys, 1e-6);
        }
    }
    let steps = |query_scaling| CpuSteps { query_scaling, ..CpuSteps::default() };
    let queries = |query_scaling| {
        let mut cache = CpuCache::new(shape, pages.clone(), 8);
        rope_cache::cpu(&mut cache, steps(query_scaling), &tokens, &qkv)
    };
    let (plain, grown, pitch) = (queries(None), queries(query_scaling), shape.pitch() as usize);
    assert_eq!(plain[..2 * pitch], grown[..2 * pitch], "queries within the original context stay as they are");
    assert_eq!(grown[2 * pitch], plain[2 * pitch] * (1.0 + 0.3 * 2f32.ln()));
}

/// The target of long contexts: the angle is the f32 product of position and inverse frequency, its sine and cosine
/// are right to 1e-6 whatever the driver's `sin` does with 131072 radians.
#[test]
fn angles_of_far_positions_are_exact() {
    let shape = AttentionShape { num_heads: 1, num_kv_heads: 1, head_dim: 64, max_pages: 2048, cache_f16: false };
    let mut random = Random::new(5);
    let inv_freq = (0..32).map(|i| if i < 4 { 1.0 - i as f32 / 7.0 } else { 10f32.powf(-(i as f32) / 6.0) }).collect();
    let table = RopeTable::new(inv_freq);
    let tokens: Vec<_> = [0, 1, 2, 1000, 4097, 65535, 99_999, 131_071].map(|p| token(p, 0)).to_vec();
    // (1, 0) rotated is (cos, sin).
    let row: Vec<f32> = (0..192).map(|i| f32::from(i % 64 < 32)).collect();
    let qkv = row.repeat(tokens.len());
    let mut pages = random.permutation(2048);
    pages.iter_mut().for_each(|p| *p %= 8);
    let mut cache = CpuCache::new(shape, pages, 8);
    let steps = CpuSteps { rope: Some(&table), ..CpuSteps::default() };
    let (q, ..) = run_kernel(&gpu(), &cache, steps, &tokens, &qkv);
    let expected = rope_cache::cpu(&mut cache, steps, &tokens, &qkv);
    for (found, expected) in q.iter().zip(&expected) {
        assert!((found - expected).abs() < 2.5e-7, "{found}, expected {expected}");
    }
}
