// What `matvec` and `matmul` have in common: their sizes.

struct Params {
    // Rows of this chunk, and the number of its first row in the matrix.
    rows: u32,
    first_row: u32,
    // Units of 32 weights in a row; groups in a row; units in a group, as a power of two.
    units: u32,
    groups: u32,
    group_units_log2: u32,
    // From a token's activations to the next one's: in vec4s of the input, in values of the output.
    input_stride: u32,
    output_stride: u32,
    tokens: u32,
    // Of RESIDUAL and LOGITS.
    multiplier: f32,
    // Of LOGITS; 0 for none.
    softcap: f32,
    // Of NORM: its epsilon, and the true number of columns.
    epsilon: f32,
    columns: f32,
    // Of TIMES: from a token's factors to the next one's, and the first of them.
    times_stride: u32,
    times_first: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
