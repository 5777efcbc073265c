//! Every recipe looks at a checkpoint's tokenizer once, before it converts, and names each fault.

mod support;

use haikuq::architecture::Decoder;
use haikuq::checkpoint::Checkpoint;
use haikuq::tokenizer::{Findings, from_companions};
use haikuq_runtime::text::{EndSource, Special};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support::{TinyCheckpoint, convert, fail, read_json, succeed, write_json};
use tempfile::TempDir;

fn root(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

/// A checkpoint of as many rows as the tokenizer of haiku-7m has tokens, or others, with that tokenizer.
fn checkpoint(vocab: usize) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("tiny");
    TinyCheckpoint::sized(32, 1, vocab).write(&folder);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(root("golden/haiku-7m").join(file), folder.join(file)).unwrap();
    }
    (dir, folder)
}

fn findings(folder: &Path) -> Findings {
    let decoder = Decoder::from_checkpoint(Checkpoint::open(folder).unwrap()).unwrap();
    Findings::of(decoder.checkpoint(), &decoder.spec).unwrap()
}

#[test]
fn vocabularies_and_merges_become_the_tokenizer() {
    let (_dir, folder) = checkpoint(1205);
    std::fs::remove_file(folder.join("tokenizer.json")).unwrap();
    for file in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
        std::fs::copy(root("tests/fixtures/vocab-merges").join(file), folder.join(file)).unwrap();
    }
    assert!(!findings(&folder).warnings.join("\n").contains("tokenizer.json;"));
    let opened = Checkpoint::open(&folder).unwrap();
    let tokenizer = from_companions(opened.companions()).unwrap().unwrap();
    // What GPT2Tokenizer of transformers gives.
    let ids = tokenizer.encode("Hello you, little bird!", Special::Plain).unwrap();
    assert_eq!(ids, [378, 1169, 368, 16, 343, 913, 72, 5]);

    write_json(&folder.join("tokenizer_config.json"), &json!({"tokenizer_class": "BlenderbotTokenizer"}));
    let refusal = Checkpoint::open(&folder).unwrap_err().to_string();
    assert!(refusal.contains("BlenderbotTokenizer") && refusal.contains("save_pretrained"), "{refusal}");
}

#[test]
fn sentencepiece_models_become_the_tokenizer() {
    #[derive(serde::Deserialize)]
    struct Row {
        text: String,
        ids: Vec<u32>,
    }
    let mut differences = Vec::new();
    for name in ["llama", "gemma", "unigram", "unigram-bytes"] {
        let (_dir, folder) = checkpoint(1205);
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::remove_file(folder.join(file)).unwrap();
        }
        let fixture = root("tests/fixtures/sentencepiece").join(name);
        for file in ["tokenizer.model", "tokenizer_config.json"] {
            if fixture.join(file).is_file() {
                std::fs::copy(fixture.join(file), folder.join(file)).unwrap();
            }
        }
        let opened = Checkpoint::open(&folder).unwrap();
        let tokenizer = from_companions(opened.companions()).unwrap().unwrap();
        let rows: Vec<Row> = serde_json::from_slice(&std::fs::read(fixture.join("expected.json")).unwrap()).unwrap();
        assert!(rows.len() > 20);
        for Row { text, ids } in rows {
            match tokenizer.encode_bare(&text, Special::Plain) {
                Ok(found) if found == ids => {}
                found => differences.push(format!("{name} {text:?}\n  found    {found:?}\n  expected {ids:?}")),
            }
        }
        let around = tokenizer.encode("a", Special::Plain).unwrap();
        let (first, last) = (around.first().copied(), around.last().copied());
        match name {
            "unigram-bytes" => assert_eq!(last, tokenizer.eos_token_id().or(tokenizer.token_id("</s>")), "{around:?}"),
            _ => assert_eq!(first, tokenizer.bos_token_id().or(tokenizer.token_id("<s>")), "{name} {around:?}"),
        }
        assert_eq!(tokenizer.decode(&around, true).unwrap(), "a", "{name}");
    }
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn sentencepiece_models_that_are_none_are_refused() {
    let (_dir, folder) = checkpoint(1205);
    std::fs::remove_file(folder.join("tokenizer.json")).unwrap();
    let model = std::fs::read(root("tests/fixtures/sentencepiece/llama/tokenizer.model")).unwrap();
    let refusal = |bytes: &[u8]| {
        std::fs::write(folder.join("tokenizer.model"), bytes).unwrap();
        Checkpoint::open(&folder).unwrap_err().to_string()
    };
    for (bytes, why) in [
        (&model[..model.len() / 2], "cut off"),
        (&b""[..], "no pieces"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"<!doctype html><html>", "page of HTML"),
    ] {
        let refusal = refusal(bytes);
        assert!(refusal.contains("tokenizer.model") && refusal.contains(why), "{refusal}");
    }
    // transformers' `legacy: false`: one space before the whole text, none before what follows a special token.
    std::fs::write(folder.join("tokenizer.model"), &model).unwrap();
    let ids = |legacy: bool| {
        let config = json!({"legacy": legacy, "bos_token": "<s>", "eos_token": "</s>"});
        write_json(&folder.join("tokenizer_config.json"), &config);
        let tokenizer = from_companions(Checkpoint::open(&folder).unwrap().companions()).unwrap().unwrap();
        let spelled = |text| tokenizer.encode_bare(text, Special::Recognize).unwrap();
        assert_eq!(spelled("world</s>")[..], [spelled("world"), vec![2]].concat());
        (spelled("</s>world"), spelled("world"))
    };
    let (after, alone) = ids(true);
    assert_eq!(after[1..], alone);
    let (after, alone) = ids(false);
    assert_ne!(after[1..], alone);

    // Lists of tiktoken go by the same name; a package without a tokenizer is made, with a warning.
    std::fs::write(folder.join("tokenizer.model"), "IQ== 0\nIg== 1\n").unwrap();
    let warnings = findings(&folder).warnings.join("\n");
    assert!(warnings.contains("tokenizer.json; make one of its tokenizer.model"), "{warnings}");
}

#[test]
fn a_tokenizer_taken_apart_gives_the_ids_of_the_whole() {
    let (_dir, folder) = checkpoint(4096);
    let whole = from_companions(Checkpoint::open(&folder).unwrap().companions()).unwrap().unwrap();
    let file = read_json(&folder.join("tokenizer.json"));
    write_json(&folder.join("vocab.json"), &file["model"]["vocab"]);
    let merges = file["model"]["merges"].as_array().unwrap().iter().map(|m| match m {
        Value::String(merge) => merge.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    });
    let merges: Vec<String> = std::iter::once("#version: 0.2".into()).chain(merges).collect();
    std::fs::write(folder.join("merges.txt"), merges.join("\n")).unwrap();
    std::fs::remove_file(folder.join("tokenizer.json")).unwrap();
    write_json(&folder.join("tokenizer_config.json"), &json!({"tokenizer_class": "GPT2TokenizerFast"}));
    let made = from_companions(Checkpoint::open(&folder).unwrap().companions()).unwrap().unwrap();
    let texts =
        ["", " ", "Hello  world\n\n\tdon't 12345 ", "naïve e\u{301} 世界 👩‍👩‍👧 \u{a0}x", "a<|endoftext|>b", "\r\n\u{0}\u{10fffd}"];
    for text in texts {
        assert_eq!(made.encode(text, Special::Plain).unwrap(), whole.encode(text, Special::Plain).unwrap(), "{text:?}");
    }
    assert_eq!(made.encode("a<|endoftext|>", Special::Recognize).unwrap().last(), whole.token_id("<|endoftext|>").as_ref());
}

#[test]
fn what_is_no_tokenizer_is_refused_by_every_recipe() {
    type Break = dyn Fn(Vec<u8>) -> Vec<u8>;
    let broken: [(&str, &Break, &str); 4] = [
        ("pointer", &|_| b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n".to_vec(), "git lfs pull"),
        ("cut", &|bytes| bytes[..bytes.len() / 2].to_vec(), "tokenizer.json"),
        ("page", &|_| b"<!doctype html><html>".to_vec(), "page of HTML"),
        ("empty", &|_| Vec::new(), "is empty"),
    ];
    for (name, breaks, expected) in broken {
        let (dir, folder) = checkpoint(4096);
        let file = folder.join("tokenizer.json");
        std::fs::write(&file, breaks(std::fs::read(&file).unwrap())).unwrap();
        for recipe in ["f16", "q4-fast"] {
            let out = dir.path().join(recipe);
            let said = fail(convert(&folder, &out, &["--recipe", recipe]));
            assert!(said.contains(expected), "{name}, {recipe}: {said}");
            assert!(!out.exists());
        }
    }
}

#[test]
fn a_byte_order_mark_is_read_over() {
    let (_dir, folder) = checkpoint(4096);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let bytes = std::fs::read(folder.join(file)).unwrap();
        std::fs::write(folder.join(file), [b"\xef\xbb\xbf".to_vec(), bytes].concat()).unwrap();
    }
    assert_eq!(findings(&folder).warnings, [""; 0]);
}

#[test]
fn a_tokenizer_of_another_size_is_named() {
    let warning = |rows| findings(&checkpoint(rows).1).warnings.join("\n");
    let larger = warning(4000);
    assert!(larger.contains("is 4000 and 95 more, and the embedding has 4000 rows"), "{larger}");
    assert_eq!(warning(4096 + 128), "", "padding");
    assert!(warning(8192).contains("has 4096 tokens and the embedding 8192 rows"));
}

#[test]
fn no_tokenizer_is_said_and_how_to_get_one() {
    let (dir, folder) = checkpoint(4096);
    std::fs::remove_file(folder.join("tokenizer.json")).unwrap();
    std::fs::write(folder.join("tokenizer.model"), "IQ== 0\nIg== 1\n").unwrap();
    let output = succeed(convert(&folder, &dir.path().join("out"), &["--recipe", "f16"]));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("has no tokenizer.json") && said.contains("save_pretrained"), "{said}");
}

#[test]
fn end_tokens_come_from_all_that_name_them() {
    let (dir, folder) = checkpoint(4096);
    let template =
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}<|user|>{% endif %}{% endfor %}";
    write_json(&folder.join("tokenizer_config.json"), &json!({"eos_token": "<|endoftext|>", "chat_template": template}));
    write_json(&folder.join("generation_config.json"), &json!({"eos_token_id": [7, 9999]}));
    let mut config = read_json(&folder.join("config.json"));
    config["eos_token_id"] = json!(9);
    write_json(&folder.join("config.json"), &config);
    let vocabulary = from_companions(Checkpoint::open(&folder).unwrap().companions()).unwrap().unwrap();
    let id = |token| vocabulary.token_id(token).unwrap();
    let mut expected = vec![
        (7, EndSource::GenerationConfig),
        (9, EndSource::Config),
        (id("<|endoftext|>"), EndSource::Tokenizer),
        (id("<|user|>"), EndSource::ChatTemplate),
    ];
    expected.sort_by_key(|(id, _)| *id);
    let ends = findings(&folder).end_tokens;
    let found: Vec<_> = ends.iter().map(|(end, _)| (end.id, end.sources[0])).collect();
    assert_eq!(found, expected, "an id beyond the embedding is left out");

    let plan = succeed(convert(&folder, &dir.path().join("out"), &["--recipe", "f16", "--dry-run"]));
    let plan = String::from_utf8(plan.stdout).unwrap();
    assert!(plan.contains("\"<|user|>\" (the end of a turn in the chat template)"), "{plan}");
}

#[test]
fn a_chat_model_without_a_template_is_told() {
    let (dir, folder) = checkpoint(4096);
    write_json(&folder.join("tokenizer_config.json"), &json!({"eos_token": "<|endoftext|>"}));
    assert_eq!(findings(&folder).warnings, [""; 0]);
    let named = dir.path().join("tiny-Instruct");
    std::fs::rename(&folder, &named).unwrap();
    assert!(findings(&named).warnings.join("\n").contains("no chat template"));
}
