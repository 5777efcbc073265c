//! Merges of SentencePiece's BPE, which has scores in their place.

use std::cmp::Ordering;

/// A pair that becomes a piece.
struct Merge<'a> {
    left: &'a str,
    right: &'a str,
    score: f64,
}

/// Every pair of pieces that makes a piece, best score first. SentencePiece takes the pair whose piece has the best score,
/// the leftmost of several; the `tokenizers` library takes the first of this list, the leftmost of several. `pieces` are
/// those of text, with their scores; `is_piece` knows them by their text.
pub(in crate::checkpoint) fn merges<'a>(
    pieces: impl Iterator<Item = (&'a str, f64)>,
    is_piece: impl Fn(&str) -> bool,
) -> Vec<[&'a str; 2]> {
    let mut merges = Vec::new();
    for (piece, score) in pieces {
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if is_piece(left) && is_piece(right) {
                merges.push(Merge { left, right, score });
            }
        }
    }
    // Of one piece, the longer left part first: it is what the leftmost pairs have grown to.
    merges.sort_by(|a, b| {
        let by_score = b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal);
        by_score.then(b.left.len().cmp(&a.left.len())).then(b.right.len().cmp(&a.right.len()))
    });
    merges.into_iter().map(|m| [m.left, m.right]).collect()
}
