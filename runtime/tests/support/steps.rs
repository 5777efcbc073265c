//! Steps for mixers that keep states: chunks that end early, single tokens of several sequences, idle rows, sequences that begin anew.

use super::token;
use haikuq_runtime::kernels::attention::Token;

/// Sequences that have a row of their own.
pub const SEQUENCES: usize = 3;

fn row(first: usize, len: usize) -> Vec<Token> {
    (first..first + len).map(|position| token(position, 1)).collect()
}

/// Steps of chunks and of single tokens: whether it is a chunk, and its tokens.
pub fn steps() -> Vec<(bool, Vec<Token>)> {
    let mut ends_early = row(0, 40);
    ends_early.resize(64, Token::IDLE);
    // Less than a ring holds.
    let mut short = row(72, 5);
    short.resize(32, Token::IDLE);
    let others = vec![token(77, 1), token(0, 0), Token::IDLE, token(0, 2)];
    let behind = vec![token(1, 2), token(78, 1)];
    // A sequence that begins anew where another one was.
    let mut anew = row(0, 9);
    anew.resize(32, Token::IDLE);
    let again = vec![token(1, 0), token(9, 1), token(2, 2)];
    vec![(true, ends_early), (true, row(40, 32)), (true, short), (false, others), (false, behind), (true, anew), (false, again)]
}
