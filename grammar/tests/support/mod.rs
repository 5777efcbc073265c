//! haiku-7m's vocabulary and one of bytes, and answers that a die writes.

#![allow(dead_code, reason = "each test uses a part")]

use haikuq_grammar::{Format, GrammarError, Vocabulary};
use haikuq_runtime::sampling::uniform;
use haikuq_runtime::text::{Tokenizer, TokenizerFiles};
use serde_json::Value;
use std::sync::LazyLock;

/// haiku-7m's tokens.
pub const SIZE: usize = 4096;

/// `<|endoftext|>` of haiku-7m.
pub const END: u32 = 0;

/// Tokens of an answer at most.
const LONGEST: usize = 4000;

/// The tokenizer of haiku-7m.
pub static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/haiku-7m/tokenizer.json");
    Tokenizer::from_files(TokenizerFiles::new(&std::fs::read(path).unwrap())).unwrap()
});

/// Its vocabulary.
pub static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(|| Vocabulary::of_tokenizer(&TOKENIZER, SIZE, &[END]).unwrap());

/// A token for each byte that a text may have, and one that ends it.
static OF_BYTES: LazyLock<Vocabulary> = LazyLock::new(|| {
    let tokens = (0..=255u8).map(|byte| if byte == 255 { Vec::new() } else { vec![byte] }).chain([b"end".to_vec()]).collect();
    Vocabulary::new(tokens, 257, &[256], Box::new(|_| None)).unwrap()
});

/// What each token writes.
static BYTES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| TOKENIZER.token_bytes().unwrap().iter().map(<[u8]>::to_vec).collect());

/// Whether the bit of `id` is set.
pub fn has(mask: &[u32], id: u32) -> bool {
    mask[id as usize / 32] >> (id % 32) & 1 == 1
}

/// How soon an answer ends by a token: 0 is at once. Within a text a bracket ends nothing, so it comes after quotes, or before.
fn rank(id: u32, quotes_first: bool) -> usize {
    match BYTES[id as usize].as_slice() {
        _ if id == END => 0,
        [b'"'] => 1 + usize::from(!quotes_first),
        [b'}' | b']'] => 1 + usize::from(quotes_first),
        [b',', ..] => 3,
        // One letter after the other, since what a text lacks may be any of them.
        [_] => 4,
        _ => 5,
    }
}

/// An answer of which every token is drawn from those allowed, and how many of its tokens were forced. The longer the answer is,
/// the more the die is for its end.
pub fn answer(format: &Format, seed: u64) -> Result<(String, usize), GrammarError> {
    let mut matcher = VOCABULARY.matcher(format)?;
    let mut mask = vec![0u32; SIZE.div_ceil(32)];
    let (mut ids, mut forced) = (Vec::new(), 0);
    let mut next = matcher.accept(&[])?;
    for step in 0.. {
        forced += next.forced.len();
        ids.extend(&next.forced);
        if next.complete {
            break;
        }
        let so_far = || TOKENIZER.decode(&ids, true).unwrap();
        assert!(
            ids.len() < LONGEST,
            "seed {seed} does not end: {}",
            so_far().chars().rev().take(300).collect::<Vec<_>>().iter().rev().collect::<String>()
        );
        matcher.allow(&mut mask)?;
        let mut allowed: Vec<u32> = (0..SIZE as u32).filter(|id| has(&mask, *id)).collect();
        assert!(!allowed.is_empty(), "{format:?}: nothing may follow {}", so_far());
        let chance = uniform(seed, 2 * step);
        if chance < 0.3 || ids.len() > 150 {
            let least = if chance > 0.6 { 4 } else { 0 };
            let of = |id: &u32| rank(*id, chance < 0.2).max(least);
            let best = allowed.iter().map(of).min();
            allowed.retain(|id| Some(of(id)) == best);
        }
        let id = allowed[(uniform(seed, 2 * step + 1) * allowed.len() as f32) as usize];
        if id == END {
            break;
        }
        ids.push(id);
        next = matcher.accept(&[id])?;
    }
    Ok((TOKENIZER.decode(&ids, true).unwrap(), forced))
}

/// Whether `text` as a whole is an answer in `format`, byte for byte.
pub fn is_answer(format: &Format, text: &str) -> Result<bool, GrammarError> {
    let mut matcher = OF_BYTES.matcher(format)?;
    let mut mask = [0u32; 9];
    let mut rest = text.as_bytes();
    let mut next = matcher.accept(&[])?;
    loop {
        for byte in &next.forced {
            match rest.split_first() {
                Some((first, others)) if u32::from(*first) == *byte => rest = others,
                _ => return Ok(false),
            }
        }
        if next.complete {
            return Ok(rest.is_empty());
        }
        matcher.allow(&mut mask)?;
        let Some((first, others)) = rest.split_first() else { return Ok(has(&mask, 256)) };
        if !has(&mask, u32::from(*first)) {
            return Ok(false);
        }
        rest = others;
        next = matcher.accept(&[u32::from(*first)])?;
    }
}

/// A value as texts under a schema have it: on one line, with a space after a comma and a colon.
pub fn written(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let member = |(key, value): (&String, &Value)| format!("{}: {}", Value::from(key.as_str()), written(value));
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(", "))
        }
        plain => plain.to_string(),
    }
}
