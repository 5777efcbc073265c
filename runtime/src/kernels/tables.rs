//! The tables of candidates: a row a way of doing an operation, the best first. The first that fits is taken.

use super::attend::{self, Attend};
use super::candidate::Candidate;
use super::delta_net::{self, Scan};
use super::mamba2::{self, Scan as MambaScan};
use super::project::{self, Project, ProjectHeads};
use super::project_experts::{self, ProjectExperts};
#[cfg(not(target_arch = "wasm32"))]
use super::{attention_prefill_matrices, experts_matrices, matmul_matrices};
use super::{attention_prefill_tile, attention_prefill_whole, attention_split, delta_chunks};
use super::{experts_int8, mamba_chunks, matmul_int8, matmul_tile, matvec_int8};

/// Products of a matrix with activations.
pub static PROJECT: &[&Candidate<Project>] = &[
    &matvec_int8::CANDIDATE,
    &project::MATVEC,
    #[cfg(not(target_arch = "wasm32"))]
    &matmul_matrices::CANDIDATE,
    &matmul_int8::CANDIDATE,
    &matmul_tile::CANDIDATE,
    &project::MATMUL,
];

/// Products of queries, keys and values that rotate and write to the cache at their end. Where none fits, these are two
/// operations.
pub static PROJECT_HEADS: &[&Candidate<ProjectHeads>] = &[&matvec_int8::HEADS];

/// Products with the matrices of tokens' experts.
pub static PROJECT_EXPERTS: &[&Candidate<ProjectExperts>] = &[
    &project_experts::MATVEC,
    #[cfg(not(target_arch = "wasm32"))]
    &experts_matrices::CANDIDATE,
    &experts_int8::CANDIDATE,
    &project_experts::MATMUL,
];

/// Attention over the cache.
pub static ATTEND: &[&Candidate<Attend>] = &[
    &attention_split::CANDIDATE,
    &attention_split::APART,
    &attend::SPLIT,
    &attend::WHOLE,
    #[cfg(not(target_arch = "wasm32"))]
    &attention_prefill_matrices::CANDIDATE,
    &attention_prefill_tile::CANDIDATE,
    &attention_prefill_whole::CANDIDATE,
    &attend::PREFILL,
];

/// States of a gated delta net.
pub static DELTA_SCAN: &[&Candidate<Scan>] = &[&delta_chunks::CANDIDATE, &delta_net::IN_TURN];

/// States of a Mamba 2 mixer.
pub static MAMBA_SCAN: &[&Candidate<MambaScan>] = &[&mamba_chunks::CANDIDATE, &mamba2::IN_TURN];

/// Every operation with the names of its candidates, for pins and for those who ask.
pub fn names() -> Vec<(&'static str, Vec<&'static str>)> {
    fn row<K: super::candidate::Kind>(table: &[&Candidate<K>]) -> (&'static str, Vec<&'static str>) {
        (K::NAME, table.iter().map(|c| c.name).collect())
    }
    vec![row(PROJECT), row(PROJECT_HEADS), row(PROJECT_EXPERTS), row(ATTEND), row(DELTA_SCAN), row(MAMBA_SCAN)]
}
