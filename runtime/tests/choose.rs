//! Which candidate a device gets, decided by its profile alone: no GPU is needed to ask.

use haikuq_format::Scheme;
use haikuq_format::spec::Activation;
use haikuq_runtime::device::{MatrixShape, Profile, Vendor};
use haikuq_runtime::kernels::attend::AttendShape;
use haikuq_runtime::kernels::attention::{AttentionShape, Scores};
use haikuq_runtime::kernels::candidate::Numerics;
use haikuq_runtime::kernels::choose::{Restrictions, check_pins, choose};
use haikuq_runtime::kernels::project::ProjectShape;
use haikuq_runtime::kernels::tables;
use haikuq_runtime::program::{Output, Phase};
use std::collections::BTreeMap;

/// A large GPU on Vulkan, with everything that a kernel may ask for.
fn large() -> Profile {
    Profile {
        vendor: Vendor::Nvidia,
        f16: true,
        subgroups: true,
        subgroup_barriers: true,
        subgroup_min_size: 32,
        subgroup_max_size: 32,
        packed_dot: true,
        matrices: vec![MatrixShape { m: 16, n: 16, k: 16 }],
        max_binding: 4 << 30,
        max_buffer: 4 << 30,
        max_storage_buffers: 32,
        workgroup_memory: 48 << 10,
        max_invocations: 1024,
        ..Profile::least()
    }
}

/// The same GPU as a browser offers it.
fn in_browser() -> Profile {
    Profile {
        backend: "BrowserWebGpu".into(),
        f16: false,
        matrices: Vec::new(),
        max_storage_buffers: 10,
        workgroup_memory: 32 << 10,
        max_invocations: 256,
        ..large()
    }
}

fn project(scheme: &str, tokens: usize, phase: Phase) -> ProjectShape {
    let scheme = scheme.parse::<Scheme>().unwrap();
    let output = Output::Glu(Activation::Silu);
    ProjectShape { rows: 16384, columns: 3072, tokens, phase, scheme, output, bias: false, norm: phase == Phase::Decode }
}

fn attend(tokens: u32, phase: Phase) -> AttendShape {
    let attention = AttentionShape { num_heads: 24, num_kv_heads: 8, head_dim: 128, max_pages: 64, cache_f16: true };
    AttendShape { tokens, phase, attention, scores: Scores { scale: 0.1, window: None, softcap: None } }
}

fn product(profile: &Profile, scheme: &str, tokens: usize, phase: Phase) -> &'static str {
    choose(tables::PROJECT, profile, &project(scheme, tokens, phase), &Restrictions::default()).unwrap().name
}

const SCHEMES: [&str; 8] = ["f32", "f16", "q8/32", "q4/32", "q4/32+u4", "q3/64+f16", "q4/32:e4m4 learned", "q5/32 learned"];

#[test]
fn webgpus_default_limits_suffice_for_some_candidate_of_every_operation() {
    for restrictions in [Restrictions::default(), Restrictions::exact()] {
        for scheme in SCHEMES {
            for (tokens, phase) in [(1, Phase::Decode), (8, Phase::Decode), (32, Phase::Prefill), (512, Phase::Prefill)] {
                let shape = project(scheme, tokens, phase);
                choose(tables::PROJECT, &Profile::least(), &shape, &restrictions).unwrap();
            }
        }
        for (tokens, phase) in [(8, Phase::Decode), (512, Phase::Prefill)] {
            choose(tables::ATTEND, &Profile::least(), &attend(tokens, phase), &restrictions).unwrap();
        }
    }
}

#[test]
fn exact_restrictions_leave_exact_candidates_alone() {
    for scheme in SCHEMES {
        for (tokens, phase) in [(1, Phase::Decode), (512, Phase::Prefill)] {
            let found = choose(tables::PROJECT, &large(), &project(scheme, tokens, phase), &Restrictions::exact()).unwrap();
            assert_eq!(found.numerics, Numerics::Exact, "{} for {scheme}", found.name);
        }
    }
}

#[test]
fn a_prompt_is_computed_on_matrices_or_in_integers_as_the_device_allows() {
    let prompt = |profile: &Profile, scheme| product(profile, scheme, 512, Phase::Prefill);
    assert_eq!(prompt(&large(), "q4/32"), "matmul_matrices");
    assert_eq!(prompt(&in_browser(), "q4/32"), "matmul_int8");
    // Activations of eight bits would lose more than weights of eight bits do.
    assert_eq!(prompt(&in_browser(), "q8/32"), "matmul_tile");
    assert_eq!(prompt(&large(), "f32"), "matmul_tile");
    let attention = choose(tables::ATTEND, &large(), &attend(512, Phase::Prefill), &Restrictions::default()).unwrap();
    assert_eq!(attention.name, "attention_prefill_matrices");
}

#[test]
fn a_token_is_computed_in_integers_where_that_pays() {
    let token = |profile: &Profile, scheme| product(profile, scheme, 1, Phase::Decode);
    assert_eq!([token(&large(), "q4/32"), token(&in_browser(), "q4/32")], ["matvec_int8"; 2]);
    assert_eq!([token(&large(), "q8/32"), token(&large(), "q5/32 learned")], ["matvec"; 2]);
}

#[test]
fn a_program_on_the_processor_keeps_its_own_candidates() {
    let software = Profile { software: true, ..large() };
    assert_eq!(product(&software, "q4/32", 1, Phase::Decode), "matvec");
    assert_eq!(product(&software, "q4/32", 512, Phase::Prefill), "matmul");
    for (phase, name) in [(Phase::Decode, "attention_decode"), (Phase::Prefill, "attention_prefill")] {
        let found = choose(tables::ATTEND, &software, &attend(8, phase), &Restrictions::default()).unwrap();
        assert_eq!(found.name, name);
    }
}

#[test]
fn a_pin_is_taken_where_it_fits_and_checked_by_name() {
    let pin = |operation: &str, candidate: &str| BTreeMap::from([(operation.to_string(), candidate.to_string())]);
    let pinned = Restrictions { pins: pin("project", "matmul_int8"), ..Restrictions::default() };
    let find = |tokens, phase| choose(tables::PROJECT, &large(), &project("q4/32", tokens, phase), &pinned).unwrap().name;
    assert_eq!(find(512, Phase::Prefill), "matmul_int8");
    assert_eq!(find(1, Phase::Decode), "matvec_int8", "the pinned candidate does not do this");
    check_pins(&pinned.pins).unwrap();
    let no_operation = check_pins(&pin("multiply", "x")).unwrap_err();
    assert!(no_operation.contains("\"multiply\"") && no_operation.contains("project, "), "{no_operation}");
    let no_candidate = check_pins(&pin("attend", "x")).unwrap_err();
    assert!(no_candidate.contains("attention_prefill_matrices"), "{no_candidate}");
}
