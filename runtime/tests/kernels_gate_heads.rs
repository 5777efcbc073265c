//! `gate_heads` agrees with its CPU twin.

mod support;

use haikuq_format::layout::padded;
use haikuq_runtime::kernels::gate_heads::{self, GateHeads};
use rstest::rstest;
use support::{Random, assert_close, permutations, run};

#[rstest]
#[case::one_a_head(3)]
#[case::one_a_number(3 * 20)]
#[case::one_for_all(1)]
fn gates_at_the_end_of_a_row_are_those_of_the_twin(#[case] gates: usize) {
    let (tokens, columns) = (5, 3 * 20);
    // Queries, keys and values of one key/value head stand before the gates.
    let x_columns = columns + 2 * 20 + gates;
    let (pitch, x_pitch) = (padded(columns), padded(x_columns));
    let mut random = Random::new(3);
    let mut x = random.rows(tokens, x_columns, x_pitch);
    // Gates that are all but shut, and all but open.
    (x[x_columns - gates], x[x_pitch + x_columns - 1]) = (-90.0, 90.0);
    let y = random.rows(tokens, columns, pitch);
    let mut expected = y.clone();
    for (y, x) in expected.chunks_exact_mut(pitch).zip(x.chunks_exact(x_pitch)) {
        gate_heads::cpu(&mut y[..columns], &x[x_columns - gates..x_columns]);
    }
    for (name, gpu) in permutations() {
        let (x, y) = (gpu.upload("x", &x), gpu.upload("y", &y));
        let kernel = GateHeads { tokens: tokens as u32, columns, gates, x_columns, x: (&x).into(), y: (&y).into() };
        let found = run::<f32>(&gpu, &[&kernel.bind(&gpu).unwrap()], &y, tokens * pitch);
        assert_close(name, &found, &expected, 1e-6);
    }
}
