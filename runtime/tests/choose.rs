//! Which candidate a device gets, decided by its profile alone: no GPU is needed to ask.

use haikuq_format::Scheme;
use haikuq_format::spec::Activation;
use haikuq_runtime::device::{MatrixShape, Profile, Vendor};
use haikuq_runtime::kernels::attend::Attend;
use haikuq_runtime::kernels::attend::AttendShape;
use haikuq_runtime::kernels::attention::{AttentionShape, Scores};
use haikuq_runtime::kernels::candidate::Kind;
use haikuq_runtime::kernels::candidate::Numerics;
use haikuq_runtime::kernels::choose::{Means, Restrictions, able, check_pins, choose, decide};
use haikuq_runtime::kernels::measured::{Measured, Times};
use haikuq_runtime::kernels::project::Project;
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
fn a_pin_is_taken_where_it_works_and_checked_by_name() {
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

/// A device on which candidates took these microseconds for a shape.
fn measured<K: Kind>(shape: &K::Shape, exact: bool, times: &[(&str, f64)]) -> Measured {
    let mut measured = Measured::on("a device".into());
    let microseconds = times.iter().map(|(name, us)| (name.to_string(), Some(*us))).collect();
    measured.add(Times { operation: K::NAME.into(), shape: K::measured_as(shape, exact).unwrap(), microseconds });
    measured
}

#[test]
fn a_measurement_comes_before_the_table_and_a_pin_before_both() {
    let shape = project("q4/32", 512, Phase::Prefill);
    let times = [("matmul_matrices", 50.0), ("matmul_int8", 40.0), ("matmul_tile", 90.0)];
    let mut restrictions = Restrictions { measured: measured::<Project>(&shape, false, &times), ..Restrictions::default() };
    let decision = |restrictions: &Restrictions| decide(tables::PROJECT, &large(), &shape, restrictions).unwrap();

    let by_table = decision(&Restrictions::default());
    assert_eq!((by_table.candidate.name, by_table.by), ("matmul_matrices", Means::Table));
    let by_time = decision(&restrictions);
    let means = Means::Measured { microseconds: 40.0, other: "matmul_matrices", other_microseconds: 50.0 };
    assert_eq!((by_time.candidate.name, by_time.by), ("matmul_int8", means));
    // Prompts of other lengths are of the same kind, but for the shortest.
    let of = |tokens| choose(tables::PROJECT, &large(), &project("q4/32", tokens, Phase::Prefill), &restrictions).unwrap().name;
    assert_eq!([of(96), of(64)], ["matmul_int8", "matmul_matrices"]);

    restrictions.pins = BTreeMap::from([("project".into(), "matmul".into())]);
    let pinned = decision(&restrictions);
    assert_eq!((pinned.candidate.name, pinned.by), ("matmul", Means::Pinned));
}

#[test]
fn the_tables_choice_stays_unless_another_one_is_clearly_faster() {
    let shape = project("q4/32", 1, Phase::Decode);
    for (other, name) in [(9.5, "matvec_int8"), (9.0, "matvec"), (20.0, "matvec_int8")] {
        let measured = measured::<Project>(&shape, false, &[("matvec_int8", 10.0), ("matvec", other)]);
        let restrictions = Restrictions { measured, ..Restrictions::default() };
        let found = decide(tables::PROJECT, &large(), &shape, &restrictions).unwrap();
        assert_eq!(found.candidate.name, name, "{other}");
        assert!(matches!(found.by, Means::Measured { .. }), "the profile shows both times");
    }
    // Where the table's choice has no time, nothing is known.
    let measured = measured::<Project>(&shape, false, &[("matvec", 1.0)]);
    let found = decide(tables::PROJECT, &large(), &shape, &Restrictions { measured, ..Restrictions::default() }).unwrap();
    assert_eq!((found.candidate.name, found.by), ("matvec_int8", Means::Table));
}

#[test]
fn exact_numerics_never_take_a_fast_candidate_whatever_was_measured() {
    let shape = project("q4/32", 512, Phase::Prefill);
    let times = [("matmul_matrices", 1.0), ("matmul_int8", 1.0), ("matmul_tile", 90.0), ("matmul", 50.0)];
    let restrictions = Restrictions { measured: measured::<Project>(&shape, true, &times), ..Restrictions::exact() };
    let found = choose(tables::PROJECT, &large(), &shape, &restrictions).unwrap();
    assert_eq!((found.name, found.numerics), ("matmul", Numerics::Exact));
    let pins = BTreeMap::from([("project".into(), "matmul_int8".into())]);
    let found = choose(tables::PROJECT, &large(), &shape, &Restrictions { pins, ..restrictions }).unwrap();
    assert_eq!(found.numerics, Numerics::Exact, "{}", found.name);
}

#[test]
fn what_is_exact_in_decoding_does_not_depend_on_the_number_of_tokens() {
    assert_eq!(Project::measured_as(&project("q4/32", 1, Phase::Decode), true), None);
    let name = |tokens| Attend::measured_as(&attend(tokens, Phase::Decode), true).unwrap();
    assert_eq!(name(1), name(8));
    for profile in [large(), in_browser(), Profile::least()] {
        for c in tables::ATTEND {
            let can = |tokens| (c.can)(&profile, &attend(tokens, Phase::Decode));
            assert_eq!(can(1), can(8), "{c:?}");
        }
    }
}

#[test]
fn what_a_table_takes_works_and_weights_of_eight_bits_never_meet_activations_of_eight_bits() {
    for profile in [large(), in_browser(), Profile::least(), Profile { software: true, ..large() }] {
        for scheme in SCHEMES {
            for (tokens, phase) in [(1, Phase::Decode), (8, Phase::Decode), (32, Phase::Prefill), (512, Phase::Prefill)] {
                let shape = project(scheme, tokens, phase);
                for c in tables::PROJECT {
                    assert!((c.can)(&profile, &shape) || !(c.fits)(&profile, &shape), "{c:?} for {scheme} and {tokens} tokens");
                }
                let able = able(tables::PROJECT, &profile, &shape, &Restrictions::default());
                assert_eq!(able[0].name, choose(tables::PROJECT, &profile, &shape, &Restrictions::default()).unwrap().name);
                assert!(scheme != "q8/32" || able.iter().all(|c| !c.name.contains("int8")), "{able:?}");
            }
        }
        for (tokens, phase) in [(1, Phase::Decode), (8, Phase::Decode), (512, Phase::Prefill)] {
            let shape = attend(tokens, phase);
            for c in tables::ATTEND {
                assert!((c.can)(&profile, &shape) || !(c.fits)(&profile, &shape), "{c:?} for {tokens} tokens");
            }
        }
    }
}
