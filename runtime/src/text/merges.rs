//! A look at the merges of a `tokenizer.json` before the `tokenizers` library reads them: it cuts the prefix of continuing
//! pieces off a merge's second part without a look at it, and writes what the two make into as many bytes as the longest
//! token has.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// Refuses `merges` that the library cannot read. `prefix` begins each piece within a word, `longest` are the bytes of the
/// vocabulary's longest token.
///
/// # Errors
/// The merge, and why.
pub(super) fn vet(merges: &RawValue, prefix: &str, longest: usize) -> Result<(), String> {
    let mut json = serde_json::Deserializer::from_str(merges.get());
    Merges { prefix, longest }.deserialize(&mut json).map_err(|e| format!("its merges: {e}"))
}

/// Reads a list of merges one by one, and keeps none.
struct Merges<'a> {
    prefix: &'a str,
    longest: usize,
}

impl Merges<'_> {
    fn vet(&self, first: &str, second: &str) -> Result<(), String> {
        let Some(rest) = second.strip_prefix(self.prefix) else {
            let prefix = self.prefix;
            return Err(format!(
                "the second part of {first:?} and {second:?} does not begin with {prefix:?}, its continuing_subword_prefix"
            ));
        };
        if first.len() + rest.len() > self.longest {
            let longest = self.longest;
            return Err(format!("{first:?} and {second:?} make no token: its vocabulary's longest has {longest} bytes"));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Merges<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Merges<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of merges")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(merge) = list.next_element()? {
            if let Merge(Some((first, second))) = merge {
                self.vet(&first, &second).map_err(A::Error::custom)?;
            }
        }
        Ok(())
    }
}

/// Two pieces that become one; none where the library reads no merge: it skips the version of a `merges.txt`, and refuses
/// other lines without a space.
struct Merge(Option<(String, String)>);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pieces;
        impl<'de> Visitor<'de> for Pieces {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two pieces, in a list or with a space between them")
            }

            fn visit_str<E: Error>(self, line: &str) -> Result<Merge, E> {
                let pieces = line.split_once(' ').filter(|_| !line.starts_with("#version"));
                Ok(Merge(pieces.map(|(first, second)| (first.to_owned(), second.to_owned()))))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merge, A::Error> {
                let mut piece = |at| list.next_element()?.ok_or_else(|| A::Error::invalid_length(at, &self));
                Ok(Merge(Some((piece(0)?, piece(1)?))))
            }
        }
        deserializer.deserialize_any(Pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::vet;
    use serde_json::value::RawValue;

    #[test]
    fn a_merge_that_the_library_would_cut_wrongly_is_refused() {
        let vet = |merges: &str, prefix| vet(&RawValue::from_string(merges.to_owned()).unwrap(), prefix, 3);
        for (merges, prefix) in [
            (r#"[["a", "b"], ["ab", "c"]]"#, ""),
            (r#"["a b", "ab c"]"#, ""),
            (r##"["#version: 0.2 of many", "ab ##c", "line"]"##, "##"),
            ("[]", "##"),
        ] {
            vet(merges, prefix).unwrap();
        }
        for (merges, prefix, why) in [
            (r#"[["ab", "c"], ["abc", "d"]]"#, "", r#""abc" and "d" make no token: its vocabulary's longest has 3 bytes"#),
            (r#"["abc d"]"#, "", "make no token"),
            (r###"[["abc", "##d"]]"###, "##", "make no token"),
            (r##"[["a", "b"]]"##, "##", "the second part of \"a\" and \"b\" does not begin with \"##\""),
            // A cut within a letter.
            (r#"[["a", "é"]]"#, "x", "does not begin"),
            (r#"[["a"]]"#, "", "invalid length 1, expected two pieces"),
            ("3", "", "expected a list of merges"),
        ] {
            let refusal = vet(merges, prefix).unwrap_err();
            assert!(refusal.starts_with("its merges: ") && refusal.contains(why), "{refusal}");
        }
    }
}
