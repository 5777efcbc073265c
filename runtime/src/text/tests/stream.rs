//! Streams give the text of the whole, in pieces of whole characters.

use super::all_cached;
use super::tokenizers::{MIXED, gpt2, llama2, mistral};
use crate::text::{Special, StreamDecoder, Tokenizer};
use proptest::prelude::*;

fn pieces(t: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = StreamDecoder::new(t);
    let mut pieces: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
    pieces.push(stream.finish());
    pieces
}

#[test]
fn characters_of_several_tokens_come_whole() {
    for (name, t) in all_cached().iter().filter(|(name, _)| *name != "unigram") {
        let ids = t.encode_bare(MIXED, Special::Plain).unwrap();
        let pieces = pieces(t, &ids);
        assert!(pieces.iter().all(|p| !p.contains('\u{fffd}')), "{name}: {pieces:?}");
        assert!(pieces.iter().filter(|p| p.is_empty()).count() > 10, "{name}: emoji are held back until they are whole");
        assert_eq!(pieces.concat(), MIXED, "{name}");
    }
}

#[test]
fn a_token_is_shown_as_soon_as_it_is_clear() {
    let t = gpt2();
    let ids = t.encode_bare("hello world", Special::Plain).unwrap();
    assert_eq!(pieces(&t, &ids), ["hello", " wor", "l", "d", ""]);
}

#[test]
fn spaces_between_words_survive_sentencepiece() {
    for t in [llama2(), mistral()] {
        let ids = t.encode_bare("wor wor wor", Special::Plain).unwrap();
        assert_eq!(pieces(&t, &ids), ["wor", " wor", " wor", ""]);
    }
}

#[test]
fn a_text_that_goes_on_keeps_its_first_space() {
    let t = llama2();
    let ids = t.encode_bare("hello wor", Special::Plain).unwrap();
    let (prompt, answer) = ids.split_at(ids.len() - 1);
    assert_eq!(StreamDecoder::continuing(&t, prompt).push(answer[0]), " wor");
    assert_eq!(StreamDecoder::new(&t).push(answer[0]), "wor");
}

#[test]
fn special_tokens_between_words_change_nothing() {
    let t = mistral();
    let mut ids = t.encode_bare("wor wor", Special::Plain).unwrap();
    ids.insert(1, t.token_id("<|end|>").unwrap());
    ids.insert(0, t.token_id("<s>").unwrap());
    assert_eq!(pieces(&t, &ids).concat(), "wor wor");
    let mut spelled = StreamDecoder::with_special(&t);
    assert_eq!(ids.iter().map(|id| spelled.push(*id)).collect::<String>(), t.decode(&ids, false).unwrap());
}

#[test]
fn an_incomplete_character_at_the_end_is_dropped() {
    for t in [gpt2(), llama2()] {
        let ids = t.encode_bare("a👩", Special::Plain).unwrap();
        assert_eq!(pieces(&t, &ids[..ids.len() - 1]).concat(), "a");
    }
}

#[test]
fn endless_nonsense_is_shown_for_what_it_is() {
    let t = gpt2();
    let continuation_byte = t.token_id("Ģ").unwrap();
    let mut stream = StreamDecoder::new(&t);
    let shown: String = (0..200).map(|_| stream.push(continuation_byte)).collect();
    assert!(shown.chars().count() > 100 && shown.chars().all(|c| c == '\u{fffd}'));
    assert_eq!(stream.push(t.token_id("a").unwrap()).chars().last(), Some('a'));
}

proptest! {
    #[test]
    fn the_pieces_together_are_the_whole(text in "[ -~éÜжПр世界👩🇩🇪\n]{0,40}", ) {
        for (name, t) in all_cached() {
            let ids = t.encode_bare(&text, Special::Plain).unwrap();
            prop_assert_eq!(pieces(t, &ids).concat(), t.decode(&ids, true).unwrap(), "{}", name);
        }
    }

    #[test]
    fn any_ids_of_a_byte_level_vocabulary_stream_to_the_whole(ids in proptest::collection::vec(0u32..280, 0..50)) {
        let t = &all_cached()[0].1;
        let whole = t.decode(&ids, true).unwrap();
        let streamed = pieces(t, &ids).concat();
        prop_assert_eq!(streamed.trim_end_matches('\u{fffd}'), whole.trim_end_matches('\u{fffd}'));
    }
}
