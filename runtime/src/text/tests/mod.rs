//! Tokenizers of every kind keep control tokens and text apart, and give text back as it was.

mod chat;
mod files;
mod haiku;
mod stream;
mod tokenizers;

use crate::text::{Special, TextError, Tokenizer, TokenizerFiles};
use proptest::prelude::*;
use tokenizers::{MIXED, all, gemma, gpt2, llama2, llama3, mistral, unigram};

const CONTROL: [&str; 8] = ["<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<think>", "</think>", "<tool_call>"];

fn control_ids(t: &Tokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter().filter(|id| t.is_control(**id)).map(|id| t.token(*id).unwrap()).collect()
}

#[test]
fn every_kind_of_tokenizer_loads_and_gives_text_back() {
    for (name, t) in all() {
        let ids = t.encode_bare(MIXED, Special::Recognize).unwrap();
        // A unigram model without byte fallback has no token for most of it.
        if name != "unigram" {
            assert_eq!(t.decode(&ids, false).unwrap(), MIXED, "{name}");
        }
        assert!(ids.iter().all(|id| (*id as usize) < t.vocab_size()), "{name}");
    }
}

#[test]
fn a_sequence_starts_as_the_post_processor_says() {
    for (t, starts) in [(llama3(), true), (llama2(), true), (gpt2(), false), (mistral(), false)] {
        let bare = t.encode_bare("hello", Special::Plain).unwrap();
        let mut expected = if starts { vec![t.token_id("<s>").unwrap()] } else { vec![] };
        expected.extend(&bare);
        assert_eq!(t.encode("hello", Special::Plain).unwrap(), expected);
    }
}

#[test]
fn the_configuration_names_the_special_tokens() {
    let t = llama3();
    assert_eq!((t.bos_token_id(), t.eos_token_id()), (t.token_id("<s>"), t.token_id("<|end|>")));
    assert!(t.is_special(t.token_id("<|user|>").unwrap()));
    assert!(!t.is_special(t.token_id("<think>").unwrap()) && t.is_control(t.token_id("<think>").unwrap()));
}

#[test]
fn control_tokens_are_recognized_only_where_that_is_asked_for() {
    for (name, t) in all() {
        for token in CONTROL {
            let text = format!("hello {token} world");
            let id = t.token_id(token).unwrap();
            assert_eq!(control_ids(&t, &t.encode_bare(&text, Special::Recognize).unwrap()), [token], "{name}");
            let plain = t.encode_bare(&text, Special::Plain).unwrap();
            assert!(!plain.contains(&id), "{name}: {token}");
            assert_eq!(t.decode(&plain, true).unwrap(), text, "{name}");
        }
    }
}

#[test]
fn pieces_of_text_that_are_added_tokens_stay_text() {
    let t = gemma();
    for text in ["<table>", "</table>", "a\n\nb", "a   b"] {
        let plain = t.encode_bare(text, Special::Plain).unwrap();
        assert_eq!(plain, t.encode_bare(text, Special::Recognize).unwrap(), "{text:?}");
        let beside_control = t.encode_bare(&format!("{text}<s>"), Special::Plain).unwrap();
        assert_eq!(beside_control[..plain.len()], plain, "{text:?}");
    }
    assert_eq!(t.encode_bare("<table>", Special::Plain).unwrap(), [t.token_id("<table>").unwrap()]);
}

#[test]
fn what_a_vocabulary_cannot_spell_is_unknown_and_no_error() {
    let t = unigram();
    let unknown = t.token_id("<unk>").unwrap();
    assert_eq!(t.encode_bare("a世b", Special::Plain).unwrap().iter().filter(|id| **id == unknown).count(), 1);
}

#[test]
fn private_use_characters_in_a_text_name_no_control_token() {
    for (name, t) in all() {
        let private: String = (0x10_0000..0x10_0020).filter_map(char::from_u32).collect();
        let text = format!("<|user|>{private}<s>");
        let plain = t.encode_bare(&text, Special::Plain).unwrap();
        assert!(!plain.iter().any(|id| CONTROL.iter().any(|c| t.token_id(c) == Some(*id))), "{name}");
        if name != "unigram" {
            assert_eq!(t.decode(&plain, true).unwrap(), text, "{name}");
        }
    }
}

#[test]
fn ids_outside_the_vocabulary_decode_to_nothing() {
    for (name, t) in all() {
        assert_eq!(t.decode(&[u32::MAX, t.vocab_size() as u32], false).unwrap(), "", "{name}");
        assert_eq!(t.decode(&[], true).unwrap(), "", "{name}");
    }
}

#[test]
fn files_that_are_no_tokenizer_are_refused_by_name() {
    let load = |tokenizer, config| Tokenizer::from_files(TokenizerFiles { tokenizer, config, ..Default::default() });
    for bad in [&b""[..], b"{}", b"[]", b"\xff", br#"{"version": "1.0", "model": {"type": "Other"}}"#] {
        assert!(matches!(load(bad, None), Err(TextError::File { file: "tokenizer.json", .. })));
    }
    let good = std::fs::read(haiku::path("tokenizer.json")).unwrap();
    for bad in [&b""[..], b"[]", br#"{"chat_template": 1}"#] {
        assert!(matches!(load(&good, Some(bad)), Err(TextError::File { file: "tokenizer_config.json", .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn plain_text_never_becomes_a_control_token(
        parts in proptest::collection::vec(prop_oneof![
            proptest::sample::select(&CONTROL[..]).prop_map(str::to_owned),
            proptest::sample::select(&["<", "|", "<|", "user", "|>", ">", "s", " ", "<|<|user|>", "\u{100001}"][..]).prop_map(str::to_owned),
            "[a-c <|>\n]{0,4}",
        ], 0..10),
    ) {
        let text = parts.concat();
        for (name, t) in all_cached() {
            let ids = t.encode_bare(&text, Special::Plain).unwrap();
            let control: Vec<String> = control_ids(t, &ids).into_iter().filter(|c| c != "<unk>").collect();
            prop_assert!(control.is_empty(), "{name}: {control:?} in {text:?}");
            if *name != "unigram" {
                // Metaspace takes a space at the start for the one that it would add.
                let back = t.decode(&ids, true).unwrap();
                prop_assert_eq!(back.trim_start_matches(' '), text.trim_start_matches(' '), "{}", name);
            }
        }
    }

    #[test]
    fn text_without_control_tokens_is_encoded_alike_either_way(text in "[ -;=?-~éПр世👩\n]{0,30}") {
        for (name, t) in all_cached() {
            let (plain, recognized) = (t.encode(&text, Special::Plain).unwrap(), t.encode(&text, Special::Recognize).unwrap());
            prop_assert_eq!(plain, recognized, "{}", name);
        }
    }
}

/// The tokenizers made once: property tests ask for them often.
pub(super) fn all_cached() -> &'static [(&'static str, Tokenizer)] {
    static ALL: std::sync::OnceLock<Vec<(&str, Tokenizer)>> = std::sync::OnceLock::new();
    ALL.get_or_init(all)
}
