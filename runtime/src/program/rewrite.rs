//! Rewrites that fuse operations: each takes a list and gives one that computes the same with fewer steps.

use super::{FusedNorm, Operation, Output, Program, Value};
use haikuq_format::spec::NormKind;

/// Which fusions the kernels of a device can do for a program.
#[derive(Clone, Copy)]
pub struct Fusions<'a> {
    /// Products normalize their input (root mean squares alone) on the way.
    pub norm: bool,
    /// Whether the product of queries, keys and values of this layer rotates and writes to the cache at its end.
    pub rope: &'a dyn Fn(usize) -> bool,
}

/// Applies all rewrites that `fusions` allows.
pub fn fuse(mut program: Program, fusions: Fusions<'_>) -> Program {
    if fusions.norm {
        fuse_norms(&mut program.operations);
    }
    fuse_rope(&mut program.operations, fusions.rope);
    fuse_times(&mut program.operations);
    program
}

/// A norm whose result products alone read becomes part of each of these.
fn fuse_norms(operations: &mut Vec<Operation>) {
    let mut at = 0;
    while at < operations.len() {
        let Some((source, target, fused)) = plain_norm(&operations[at]) else {
            at += 1;
            continue;
        };
        // Readers of the result, up to where it is written anew; what adds to it reads it too.
        let end = operations[at + 1..].iter().position(|o| o.writes() == Some(target)).map_or(operations.len(), |n| at + 2 + n);
        let readers: Vec<usize> = (at + 1..end).filter(|i| operations[*i].reads().contains(&target)).collect();
        let fits = |i: &usize| matches!(operations[*i], Operation::Project { norm: None, .. });
        // What the norm reads must still be there when the last product reads it instead.
        let kept = |last: usize| operations[at + 1..last].iter().all(|o| o.writes() != Some(source));
        if readers.is_empty() || !readers.iter().all(fits) || !kept(readers[readers.len() - 1]) {
            at += 1;
            continue;
        }
        for i in readers {
            if let Operation::Project { norm, from, .. } = &mut operations[i] {
                (*norm, *from) = (Some(fused.clone()), source);
            }
        }
        operations.remove(at);
    }
}

fn plain_norm(operation: &Operation) -> Option<(Value, Value, FusedNorm)> {
    match operation {
        Operation::Norm { norm, parameters, from, into, residual: None, .. } if norm.kind == NormKind::Rms => {
            Some((*from, *into, FusedNorm { parameters: parameters.clone(), epsilon: norm.epsilon }))
        }
        _ => None,
    }
}

/// The product of queries, keys and values, and the rotation, where that alone reads it: gates on heads read it later.
fn fuse_rope(operations: &mut Vec<Operation>, wanted: &dyn Fn(usize) -> bool) {
    let mut at = 0;
    while at + 1 < operations.len() {
        let fused = match (&operations[at], &operations[at + 1]) {
            (
                Operation::Project { matrix, bias, norm, from, into: written, output: Output::Store },
                Operation::RopeCache { layer, writes: true, from: read, into },
            ) if written == read && !is_read(&operations[at + 2..], *written) && wanted(*layer) => {
                Some(Operation::ProjectRopeCache {
                    layer: *layer,
                    matrix: matrix.clone(),
                    bias: bias.clone(),
                    norm: norm.clone(),
                    from: *from,
                    into: *into,
                })
            }
            _ => None,
        };
        if let Some(fused) = fused {
            operations.splice(at..at + 2, [fused]);
        }
        at += 1;
    }
}

/// An activation, and the product with the numbers that a token brings along for the layer.
fn fuse_times(operations: &mut Vec<Operation>) {
    let mut at = 0;
    while at + 1 < operations.len() {
        let fused = match (&operations[at], &operations[at + 1]) {
            (
                Operation::Project { matrix, bias: None, norm: None, from, into: written, output: Output::Activate(activation) },
                Operation::TakeLayer { layer, from: times, into },
            ) if written == into => Some(Operation::ProjectTimes {
                layer: *layer,
                matrix: matrix.clone(),
                activation: *activation,
                from: *from,
                times: *times,
                into: *into,
            }),
            _ => None,
        };
        if let Some(fused) = fused {
            operations.splice(at..at + 2, [fused]);
        }
        at += 1;
    }
}

/// Whether one of `operations` reads `value` as it is before the first of them.
fn is_read(operations: &[Operation], value: Value) -> bool {
    let reader = operations.iter().find(|o| o.reads().contains(&value) || o.writes() == Some(value));
    reader.is_some_and(|o| o.reads().contains(&value))
}
