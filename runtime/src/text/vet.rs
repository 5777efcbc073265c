//! A look at a `tokenizer.json` before the `tokenizers` library reads it, which panics on JSON that is broken in some
//! places, and makes room for every id up to the largest.

use super::charsmap::longest_replacement;
use super::merges;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::fmt;

/// Ids that may be left out below the largest.
const LARGEST_GAP: u64 = 1 << 20;

/// How many bytes normalizers may make of one, and decoders of one of a token: real ones make 3 (a mark for a space), or 33
/// where letters are taken apart (U+FDFA is 18 others).
const MOST_GROWTH: f64 = 4096.0;

/// How often a text may be in what surrounds it.
const MOST_COPIES: usize = 8;

#[derive(Deserialize)]
struct File<'a> {
    #[serde(default)]
    added_tokens: Option<Vec<Added>>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    decoder: Option<Value>,
    post_processor: Option<Value>,
    #[serde(borrow)]
    model: Option<Model<'a>>,
}

#[derive(Deserialize)]
struct Added {
    id: u64,
}

#[derive(Default, Deserialize)]
struct Model<'a> {
    vocab: Option<Vocabulary>,
    #[serde(borrow)]
    merges: Option<&'a RawValue>,
    continuing_subword_prefix: Option<String>,
}

/// What is asked about a vocabulary; nothing of it is kept.
#[derive(Default)]
struct Vocabulary {
    /// How many tokens it has.
    count: u64,
    /// The largest of their ids.
    largest: u64,
    /// An id that two of them have.
    twice: Option<u64>,
    /// Bytes of the longest token; 0 in a list of tokens, which no merges go with.
    longest: usize,
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;
        impl<'de> Visitor<'de> for Count {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens with their ids, or a list of tokens")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let (mut ids, mut longest) = (Vec::new(), 0);
                while let Some((Bytes(bytes), id)) = map.next_entry::<Bytes, u64>()? {
                    ids.push(id);
                    longest = bytes.max(longest);
                }
                ids.sort_unstable();
                let twice = ids.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
                Ok(Vocabulary { count: ids.len() as u64, largest: ids.last().copied().unwrap_or(0), twice, longest })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocabulary, A::Error> {
                let mut tokens = Vocabulary::default();
                while list.next_element::<IgnoredAny>()?.is_some() {
                    (tokens.count, tokens.largest) = (tokens.count + 1, tokens.count);
                }
                Ok(tokens)
            }
        }
        deserializer.deserialize_any(Count)
    }
}

/// Bytes of a text.
struct Bytes(usize);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Length;
        impl Visitor<'_> for Length {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token's text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Bytes, E> {
                Ok(Bytes(text.len()))
            }
        }
        deserializer.deserialize_str(Length)
    }
}

/// The parts of a file around its vocabulary, by their names; or why the library must not read it.
pub(super) fn vet(json: &[u8]) -> Result<Map<String, Value>, String> {
    // All of it: parts that are not looked at here are at least JSON.
    let file: File = serde_json::from_slice(json).map_err(|e| match e.is_data() {
        true => e.to_string(),
        false => format!("no JSON: {e}"),
    })?;
    for (name, part) in [("normalizer", &file.normalizer), ("decoder", &file.decoder)] {
        let growth = part.as_ref().map_or(Ok(1.0), growth).map_err(|why| format!("its {name} cannot be followed: {why}"))?;
        if growth > MOST_GROWTH {
            return Err(format!("its {name} makes up to {growth:e} bytes of one, and at most {MOST_GROWTH} is allowed"));
        }
    }
    let copies = file.post_processor.as_ref().map_or(0, copies);
    if copies > MOST_COPIES {
        return Err(format!("its post_processor repeats a text {copies} times, and at most {MOST_COPIES} is allowed"));
    }
    if let Some(token) = file.post_processor.as_ref().and_then(unknown_token) {
        return Err(format!("its post_processor writes the token {token:?}, which its special_tokens do not have"));
    }
    let added = file.added_tokens.unwrap_or_default();
    let Model { vocab, merges, continuing_subword_prefix } = file.model.unwrap_or_default();
    let vocabulary = vocab.unwrap_or_default();
    if let Some(id) = vocabulary.twice {
        // Only one of them has a name when the library writes the vocabulary, as it does for plain text.
        return Err(format!("two tokens of its vocabulary have the id {id}"));
    }
    if let Some(merges) = merges {
        merges::vet(merges, continuing_subword_prefix.as_deref().unwrap_or_default(), vocabulary.longest)?;
    }
    let count = vocabulary.count + added.len() as u64;
    let largest = added.iter().map(|token| token.id).fold(vocabulary.largest, u64::max);
    if largest > count + LARGEST_GAP {
        return Err(format!("a token has the id {largest}, and there are {count} tokens"));
    }
    let names = ["normalizer", "pre_tokenizer", "post_processor", "decoder"];
    let parts = [file.normalizer, file.pre_tokenizer, file.post_processor, file.decoder];
    Ok(names.into_iter().zip(parts).filter_map(|(name, part)| Some((name.to_owned(), part?))).collect())
}

/// Bytes that a normalizer or decoder makes of one, at most. Its fields show its kind too, where the library goes by these.
///
/// # Errors
/// What is wrong with compiled rules.
fn growth(part: &Value) -> Result<f64, String> {
    let field = |name: &str| part.get(name).and_then(Value::as_str);
    let length = |name: &str| field(name).map_or(0, str::len) as f64;
    let members = ["normalizers", "decoders"].iter().find_map(|name| part.get(*name)?.as_array());
    let kind = field("type");
    if let Some(members) = members {
        return members.iter().try_fold(1.0, |product, part| Ok(product * growth(part)?));
    }
    if kind == Some("Precompiled") || part.get("precompiled_charsmap").is_some() {
        let rules = field("precompiled_charsmap").ok_or("its rules are missing")?;
        return Ok((longest_replacement(rules)? as f64).max(1.0));
    }
    if part.get("pattern").is_some() && part.get("content").is_some() {
        return Ok(match part.pointer("/pattern/String").and_then(Value::as_str) {
            Some(pattern) if !pattern.is_empty() => (length("content") / pattern.len() as f64).max(1.0),
            // An expression may match nothing, between any two letters.
            _ => length("content") + 1.0,
        });
    }
    Ok(match kind {
        Some("NFC" | "NFD" | "NFKC" | "NFKD" | "Nmt") => 12.0,
        Some("Lowercase" | "ByteLevel" | "BertNormalizer") => 3.0,
        // Before each piece of a text, of which each added token begins another.
        _ => length("prepend") + 1.0,
    })
}

/// A token that a post-processor writes around texts and that it has no ids of: the library panics when it looks for them.
fn unknown_token(part: &Value) -> Option<&str> {
    let list = |name: &str| part.get(name).and_then(Value::as_array).into_iter().flatten();
    let known = part.get("special_tokens");
    let mut written = list("single").filter_map(|piece| piece.pointer("/SpecialToken/id")?.as_str());
    let own = written.find(|id| known.is_none_or(|known| known.get(id).is_none()));
    own.or_else(|| list("processors").find_map(unknown_token))
}

/// How often a post-processor writes the text.
fn copies(part: &Value) -> usize {
    let members = part.get("processors").and_then(Value::as_array).into_iter().flatten();
    let single = part.get("single").and_then(Value::as_array).into_iter().flatten();
    // Processors follow each other, and each repeats what the one before wrote.
    let before = members.map(copies).filter(|n| *n > 0).fold(1_usize, usize::saturating_mul);
    before.saturating_mul(single.filter(|piece| piece.get("Sequence").is_some()).count().max(1))
}

#[cfg(test)]
mod tests {
    use super::vet;
    use crate::text::charsmap::tests::one_rule;
    use crate::text::{Special, TextError, Tokenizer, TokenizerFiles};

    fn refusal(json: &str) -> String {
        let files = TokenizerFiles { tokenizer: json.as_bytes(), ..TokenizerFiles::default() };
        match Tokenizer::from_files(files) {
            Err(TextError::File { file: "tokenizer.json", why }) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_library_must_not_see_is_refused() {
        let whole = r#"{"version": "1.0", "added_tokens": [], "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}"#;
        let files = TokenizerFiles { tokenizer: whole.as_bytes(), ..TokenizerFiles::default() };
        assert_eq!(Tokenizer::from_files(files).unwrap().vocab_size(), 2);
        // The library's decoders panic on this one.
        let bracket = whole.replace(r#""trim_offsets": true}"#, r#""trim_offsets": true"#);
        assert!(refusal(&bracket).contains("no JSON"), "{}", refusal(&bracket));
        // The library's models panic on some of these when they are read again, and on others never.
        let twice = whole.replace(r#""b": 1"#, r#""b": 0"#);
        assert!(refusal(&twice).contains("two tokens of its vocabulary have the id 0"), "{}", refusal(&twice));
        let beyond = whole.replace(r#""b": 1"#, r#""b": 2147483648"#);
        assert!(refusal(&beyond).contains("id 2147483648, and there are 2 tokens"), "{}", refusal(&beyond));
        let grows = |members: &str| {
            whole.replace(
                r#""decoder""#,
                &format!(r#""normalizer": {{"type": "Sequence", "normalizers": [{members}]}}, "decoder""#),
            )
        };
        let hundred = format!(r#"{{"type": "Replace", "pattern": {{"String": "x"}}, "content": "{}"}}"#, "x".repeat(100));
        let files = |json: &str| {
            Tokenizer::from_files(TokenizerFiles { tokenizer: json.as_bytes(), ..TokenizerFiles::default() }).map(drop)
        };
        assert!(files(&grows(&hundred)).is_ok());
        let thrice = refusal(&grows(&[hundred.as_str(); 3].join(",")));
        assert!(thrice.contains("normalizer makes up to 1e6 bytes of one"), "{thrice}");
        // Also where the library knows it by its fields.
        let nameless = hundred.replace(r#""type": "Replace", "#, "");
        assert!(vet(grows(&[nameless.as_str(); 3].join(",")).as_bytes()).unwrap_err().contains("1e6"));
        let prepends = format!(r#"{{"type": "Prepend", "prepend": "{}"}}"#, "x".repeat(5000));
        assert!(refusal(&grows(&prepends)).contains("5.001e3 bytes of one"));
        let piece = r#"{"Sequence": {"id": "A", "type_id": 0}}"#;
        let template = format!(
            r#""post_processor": {{"type": "TemplateProcessing", "single": [{}], "pair": [], "special_tokens": {{}}}}, "decoder""#,
            [piece; 9].join(",")
        );
        let repeated = refusal(&whole.replace(r#""decoder""#, &template));
        assert!(repeated.contains("repeats a text 9 times"), "{repeated}");
        let unknown = template.replace(&[piece; 9].join(","), r#"{"SpecialToken": {"id": "<s>", "type_id": 0}}"#);
        let unknown = refusal(&whole.replace(r#""decoder""#, &unknown));
        assert!(unknown.contains("writes the token \"<s>\", which its special_tokens do not have"), "{unknown}");
        let rules = |rules: &str| format!(r#"{{"type": "Precompiled", "precompiled_charsmap": "{rules}"}}"#);
        let letter_becomes = |bytes: usize| rules(&one_rule(b'a', 0, &[&vec![b'b'; bytes][..], b"\0"].concat()));
        let eighteen = Tokenizer::from_files(TokenizerFiles {
            tokenizer: grows(&letter_becomes(18)).as_bytes(),
            ..TokenizerFiles::default()
        });
        assert_eq!(eighteen.unwrap().encode("ab", Special::Plain).unwrap(), [1; 19]);
        assert!(files(&grows(&letter_becomes(4096))).is_ok());
        let many = refusal(&grows(&letter_becomes(4097)));
        assert!(many.contains("normalizer makes up to 4.097e3 bytes of one, and at most 4096 is allowed"), "{many}");
        assert!(refusal(&grows(&[letter_becomes(100).as_str(); 2].join(","))).contains("1e4 bytes"));
        let nameless = letter_becomes(4097).replace(r#""type": "Precompiled", "#, "");
        assert!(vet(grows(&nameless).as_bytes()).unwrap_err().contains("4.097e3"));
        let wrong = |rules: &str| refusal(&grows(rules));
        assert!(wrong(&rules("AAAA!")).contains("its normalizer cannot be followed: its rules are not base64"));
        assert!(wrong(r#"{"type": "Precompiled"}"#).contains("its rules are missing"));
        assert!(wrong(r#"{"type": "Precompiled", "precompiled_charsmap": null}"#).contains("its rules are missing"));
        assert!(wrong(&rules(&one_rule(b'a', 9, b"b\0"))).contains("point at byte 9 of 2"));
        let added = whole.replace("[],", r#"[{"id": 4294967295, "content": "<x>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],"#);
        assert!(refusal(&added).contains("id 4294967295, and there are 3 tokens"), "{}", refusal(&added));
    }
}
