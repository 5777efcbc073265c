//! A look at SentencePiece's compiled rules of normalization (`precompiled_charsmap`) before the `tokenizers` library follows
//! them: it takes memory for what the header says, and panics where a rule leads out of the rules.
//!
//! They are base64 of: the size of a trie in bytes, u32; the trie, a double array of u32; and texts, each ended by a zero byte, at
//! which the trie's leaves point (`Darts::DoubleArray`). All numbers are little-endian.

/// Rules that can be followed: bytes of the longest text that one of them writes.
///
/// # Errors
/// What is wrong with them.
pub(super) fn longest_replacement(base64: &str) -> Result<usize, String> {
    let rules = decode(base64).ok_or("its rules are not base64")?;
    let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |four| u32::from_le_bytes(*four) as usize);
    let size = number(&rules);
    let rest = rules.get(4..).ok_or("its rules are cut off")?;
    if size == 0 || !size.is_multiple_of(4) || size > rest.len() {
        return Err(format!("its rules have {} bytes, and begin with a trie of {size}", rest.len()));
    }
    let (trie, texts) = rest.split_at(size);
    let texts = std::str::from_utf8(texts).map_err(|_| "the texts of its rules are not UTF-8")?;
    let units: Vec<usize> = trie.chunks_exact(4).map(number).collect();
    for (at, unit) in units.iter().enumerate() {
        // A leaf: its number is looked at where something leads to it. No byte leads into it.
        if unit >> 31 == 1 {
            continue;
        }
        let node = at ^ (unit >> 10) << ((unit & 1 << 9) >> 6);
        // Any byte may follow.
        if node | 0xff >= units.len() {
            return Err(format!("its rules lead from {at} to {node} of {}", units.len()));
        }
        let text = units[node] & ((1 << 31) - 1);
        if unit >> 8 & 1 == 1 && !texts.is_char_boundary(text) {
            return Err(format!("its rules point at byte {text} of {} bytes of text", texts.len()));
        }
    }
    Ok(texts.split('\0').map(str::len).max().unwrap_or(0))
}

/// Padded base64, as strict as the library, which panics on what it does not take.
fn decode(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let padding = text.len() - text.trim_end_matches('=').len();
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let digits = &text.as_bytes()[..text.len() - padding];
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for four in digits.chunks(4) {
        let mut bits = 0_u32;
        for byte in four {
            bits = bits << 6 | u32::from(digit(byte)?);
        }
        let missing = 4 - four.len();
        let three = (bits << (6 * missing)).to_be_bytes();
        let (kept, unused) = three[1..].split_at(3 - missing);
        if unused.iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend(kept);
    }
    Some(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Rules of one letter, which becomes the text at byte `at` of `texts`.
    pub fn one_rule(letter: u8, at: u32, texts: &[u8]) -> String {
        let mut units = [0_u32; 512];
        // From the root to the first block, by the letter to the second, and there to the leaf.
        units[0] = 0;
        let letter_at = usize::from(letter);
        let leaf = 256 + letter_at;
        units[letter_at] = u32::from(letter) | 1 << 8 | ((letter_at ^ leaf) as u32) << 10;
        units[leaf] = at | 1 << 31;
        encode(&[&(4 * units.len() as u32).to_le_bytes(), units.map(u32::to_le_bytes).as_flattened(), texts].concat())
    }

    pub fn encode(bytes: &[u8]) -> String {
        let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let four = |three: &[u8]| {
            let bits = three.iter().chain([0, 0].iter()).take(3).fold(0, |bits, byte| bits << 8 | usize::from(*byte));
            let digit = |i: usize| if i > three.len() { '=' } else { char::from(digits[bits >> (18 - 6 * i) & 63]) };
            [digit(0), digit(1), digit(2), digit(3)]
        };
        bytes.chunks(3).flat_map(four).collect()
    }

    #[test]
    fn base64_is_taken_as_the_library_takes_it() {
        for bytes in [&b""[..], b"a", b"ab", b"abc", b"abcd", &[0xff; 7]] {
            assert_eq!(decode(&encode(bytes)).as_deref(), Some(bytes));
        }
        for wrong in ["a", "ab", "abc", "YQ", "YR==", "YWJ=", "Y===", "====", "Y=Q=", "YQ==YQ==", "YW Jj", "YWJ-", "\"\"\"\""] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn rules_are_as_long_as_their_longest_text() {
        assert_eq!(longest_replacement(&one_rule(b'x', 0, b"abc\0")), Ok(3));
        assert_eq!(longest_replacement(&one_rule(b'x', 4, b"abc\0defgh")), Ok(5));
        assert_eq!(longest_replacement(&one_rule(b'x', 0, b"")), Ok(0));
    }

    #[test]
    fn rules_that_lead_elsewhere_are_refused() {
        let refusal = |base64: &str| longest_replacement(base64).unwrap_err();
        assert!(refusal("").contains("cut off"));
        assert!(refusal("!").contains("base64"));
        let size = |size: u32, more: usize| encode(&[&size.to_le_bytes()[..], &vec![0; more]].concat());
        assert!(refusal(&size(0, 1024)).contains("a trie of 0"));
        assert!(refusal(&size(u32::MAX - 3, 1024)).contains("have 1024 bytes, and begin with a trie of 4294967292"));
        assert!(refusal(&size(1023, 1024)).contains("a trie of 1023"));
        assert!(refusal(&size(1020, 1024)).contains("from 0 to 0 of 255"));
        assert_eq!(longest_replacement(&size(1024, 1024)), Ok(0));
        assert!(refusal(&one_rule(b'x', 5, b"abc\0")).contains("at byte 5 of 4"));
        assert!(refusal(&one_rule(b'x', 1, "é\0".as_bytes())).contains("at byte 1 of 3"));
        assert!(refusal(&one_rule(b'x', 0, b"\xff")).contains("UTF-8"));
        let mut far = vec![0; 1024];
        far[4 * 120..][..4].copy_from_slice(&(120_u32 | 1 << 20).to_le_bytes());
        assert!(refusal(&encode(&[&1024_u32.to_le_bytes()[..], &far].concat())).contains("from 120 to 1144 of 256"));
    }
}
