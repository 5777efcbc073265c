use super::*;
use crate::golden::file::Generation;
use crate::golden::record::Outputs;
use crate::validate::metrics::Comparison;
use haikuq_format::manifest::{FileEntry, TensorEntry};
use haikuq_format::{DecoderSpec, Scheme};

const HOSTILE: &str = "<script>alert(\"|`*\")</script>\n";

fn manifest() -> Manifest {
    let spec: DecoderSpec = serde_json::from_value(serde_json::json!({
        "vocab_size": 4, "hidden_size": 32, "max_context": 8, "norm": {"kind": "rms", "epsilon": 1e-5}, "tied_head": true,
        "layers": [{
            "mixer": {"attention": {"num_heads": 1, "num_kv_heads": 1, "head_dim": 32, "scale": 1.0}},
            "mlp": {"intermediate_size": 32, "activation": "silu"}
        }]
    }))
    .unwrap();
    let mut manifest = Manifest::new(spec);
    for tensor in manifest.spec.tensors() {
        let mut entry = TensorEntry::new(tensor, Scheme::F32);
        entry.relative_error = Some(0.02);
        manifest.tensors.push(entry);
    }
    manifest.provenance.recipe = HOSTILE.into();
    manifest.provenance.source = vec![file("model.safetensors", "aa")];
    manifest
}

fn file(name: &str, sha256: &str) -> FileEntry {
    FileEntry { name: name.into(), bytes: 1, sha256: sha256.into() }
}

/// Two windows of three tokens, two of four logits known.
fn golden() -> Golden {
    Golden {
        outputs: Outputs {
            windows: 2,
            context: 3,
            top: 2,
            input_ids: vec![0, 1, 2, 3, 2, 1],
            nll: vec![1.0; 4],
            logsumexp: vec![2.5; 6],
            top_ids: [1, 2].repeat(6),
            top_logits: [2.0, 1.0].repeat(6),
        },
        generations: vec![
            Generation { prompt: HOSTILE.into(), prompt_ids: vec![0], greedy_ids: vec![1, 2, 3], greedy_text: String::new() },
            Generation { prompt: "same".into(), prompt_ids: vec![0], greedy_ids: vec![1], greedy_text: String::new() },
        ],
        checkpoint: vec![file("model.safetensors", "bb")],
        text_sha256: None,
        tool: Some(HOSTILE.into()),
    }
}

fn report(checks: Vec<Check>) -> Report {
    let (golden, manifest) = (golden(), manifest());
    let mut comparison = Comparison::new(&golden.outputs, 0);
    for at in 0..6 {
        comparison.row(at / 3, at % 3, &[0.1, 2.0, 1.0, if at == 4 { 3.0 } else { 0.5 }]).unwrap();
    }
    let speed = Speed { scored_tokens: 6, score_seconds: 2.0, generated_tokens: 4, generate_seconds: 0.0 };
    let outcome = Outcome { measured: comparison.finish().unwrap(), continuations: vec![vec![1, 3], vec![1]], speed };
    let decode = |ids: &[u32]| ids.iter().map(|i| format!("{HOSTILE}{i} ")).collect();
    Report::new(Ingredients {
        manifest: &manifest,
        golden: &golden,
        outcome: &outcome,
        checks,
        adapter: HOSTILE.into(),
        numerics: None,
        decode: &decode,
    })
}

fn failed() -> Check {
    Check { name: "max_kl".into(), limit: 1e-9, measured: 0.1, passed: false }
}

#[test]
fn it_survives_json() {
    let report = report(vec![failed()]);
    let json = serde_json::to_string(&report).unwrap();
    let back: Report = serde_json::from_str(&json).unwrap();
    assert_eq!(back.continuations, report.continuations);
    assert!((back.summary.mean_kl - report.summary.mean_kl).abs() < 1e-15);
    assert!(json.contains("\"schema\":\"haikuq.validate/1\"") && json.contains("\"passed\":false"));
}

#[test]
fn the_worst_position_and_the_first_difference_are_found() {
    let report = report(vec![]);
    assert_eq!((report.worst[0].window, report.worst[0].position), (1, 1));
    assert_eq!(report.worst[0].model[0].id, 3);
    assert_eq!(report.continuations[0].first_difference, Some(1));
    assert_eq!(report.continuations[1].first_difference, None);
    assert_eq!(report.kl_by_position.len(), 3);
    assert!(report.kl_by_window[1] > report.kl_by_window[0]);
    assert_eq!(report.kl_histogram.iter().map(|b| b.count).sum::<usize>(), 6);
    assert_eq!(report.golden.same_checkpoint, Some(false), "hashes differ");
    assert_eq!(report.speed.generate_tokens_per_second, 0.0, "no time, no rate");
}

#[test]
fn text_stays_text_in_every_format() {
    let report = report(vec![failed()]);
    let html = to_html(&report).unwrap();
    assert!(!html.contains("<script"), "unescaped text");
    assert!(html.contains("&lt;script&gt;") && html.contains("below its thresholds"));
    assert_eq!(html.matches("<svg").count(), 5, "position, window, distribution, bits, error");
    assert!(!html.contains("http://") || html.matches("http://").count() == html.matches("http://www.w3.org/2000/svg").count());
    let markdown = to_markdown(&report).unwrap();
    assert!(!markdown.contains("<script") && markdown.contains("**failed**"));
    let rows = |header: &str| {
        let lines = markdown.lines().skip_while(|l| !l.starts_with(header));
        lines.take_while(|l| l.starts_with('|')).map(|l| l.replace("\\|", "").matches('|').count()).collect::<Vec<_>>()
    };
    assert_eq!(rows("| window:position"), [7; 8], "a header, a rule and six rows of six cells");
}

#[test]
fn a_perfect_package_can_be_drawn() {
    let mut report = report(vec![]);
    report.kl_by_position.iter_mut().for_each(|x| *x = 0.0);
    report.package.tensors.clear();
    assert!(to_html(&report).unwrap().contains("passed"));
}

#[test]
fn all_files_are_written() {
    let dir = tempfile::tempdir().unwrap();
    write_report(&report(vec![]), &dir.path().join("new/folder")).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(dir.path().join("new/folder")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["report.html", "report.json", "report.md"]);
}
