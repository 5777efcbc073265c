//! Placement: which values share a buffer.
//!
//! Two values may lie in one buffer if no program needs both at a time. Kernels read rows up to a multiple of 32 values and
//! rely on zeros beyond the true columns; they write only the true ones. So a value whose rows have such an end never shares.

use super::{Program, Value};
use crate::ordered;
use haikuq_format::DecoderSpec;
use haikuq_format::layout::padded;
use std::collections::{BTreeMap, BTreeSet};

/// The buffer of each value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Number of a buffer, by value; values that no program has are absent.
    pub slots: BTreeMap<Value, usize>,
    /// Bytes of each buffer.
    pub bytes: Vec<u64>,
}

/// Places the values of `programs`, any of which may run after any other. Each value that one leaves for the next (the
/// residual stream, rows for the head, logits) has a buffer of its own. Values have `rows` rows, those of the head `head_rows`.
pub fn place(spec: &DecoderSpec, programs: &[Program], rows: usize, head_rows: usize) -> Placement {
    let conflicts = conflicts(programs);
    let used = ordered::set(programs.iter().flat_map(|p| &p.operations).flat_map(values));
    let lasting = |v: Value| matches!(v, Value::Hidden | Value::HeadRows | Value::Logits);
    let bytes = |v: Value| (padded(v.width(spec)) * if v.is_of_head() { head_rows } else { rows }) as u64 * 4;
    let mut placement = Placement { slots: BTreeMap::new(), bytes: Vec::new() };
    let mut members: Vec<Vec<Value>> = Vec::new();
    // The largest first: what comes later then fits into what is there.
    let order = ordered::by_key(used.into_iter().collect(), |v| u64::MAX - bytes(*v));
    for value in order {
        let alone = |v: Value| lasting(v) || v.is_padded(spec);
        let fits = |others: &Vec<Value>| {
            !alone(value) && others.iter().all(|o| !alone(*o) && !conflicts.contains(&(value.min(*o), value.max(*o))))
        };
        let slot = members.iter().position(fits).unwrap_or(members.len());
        if slot == members.len() {
            members.push(Vec::new());
            placement.bytes.push(0);
        }
        members[slot].push(value);
        placement.bytes[slot] = placement.bytes[slot].max(bytes(value));
        placement.slots.insert(value, slot);
    }
    placement
}

fn values(operation: &super::Operation) -> Vec<Value> {
    operation.reads().into_iter().chain(operation.writes()).collect()
}

/// Pairs of values of which both are needed at a time, the lesser first.
fn conflicts(programs: &[Program]) -> BTreeSet<(Value, Value)> {
    let mut pairs = BTreeSet::new();
    for program in programs {
        // Backwards: a value lives from where it is written to where it is last read.
        let mut living: BTreeSet<Value> = BTreeSet::new();
        for operation in program.operations.iter().rev() {
            let (reads, writes) = (operation.reads(), operation.writes());
            // A value that is written lies beside those that are read, and beside those that live on.
            let mut present = living.clone();
            present.extend(reads.iter().chain(&writes));
            for a in &present {
                pairs.extend(present.range(*a..).skip(1).map(|b| (*a, *b)));
            }
            if let Some(written) = writes.filter(|w| !reads.contains(w)) {
                living.remove(&written);
            }
            living.extend(reads);
        }
    }
    pairs
}
