// What becomes of the sums of four neighbouring rows for one token: bias, activation, residual, soft cap, and writing.
// Flags: BIAS; none or one of RESIDUAL, GLU, ACTIVATE (and then perhaps TIMES), LOGITS. The kernel declares `params` with `rows` (of this
// chunk), `first_row`, `output_stride`, `multiplier` and `softcap`.

#import activation
#import tile_rows

@group(0) @binding(2) var<storage, read_write> output: array<f32>;
#ifdef BIAS
@group(0) @binding(8) var<storage, read> bias: array<f32>;
#endif
#ifdef TIMES
@group(0) @binding(15) var<storage, read> times: array<f32>;
#endif

fn biased(row: u32, sum: f32) -> f32 {
#ifdef BIAS
    return sum + bias[params.first_row + min(row, params.rows - 1u)];
#else
    return sum;
#endif
}

fn write_value(token: u32, row: u32, value: f32) {
    if row >= params.rows {
        return;
    }
    let at = token * params.output_stride + output_row(row);
#ifdef RESIDUAL
    output[at] = fma(params.multiplier, value, output[at]);
#else
#ifdef ACTIVATE
#ifdef TIMES
    output[at] = activate(value) * times[token * params.times_stride + params.times_first + output_row(row)];
#else
    output[at] = activate(value);
#endif
#else
#ifdef LOGITS
    var logit = params.multiplier * value;
    if params.softcap > 0.0 {
        // tanh is 1 in f32 long before 15, and overflows on some devices long after.
        logit = params.softcap * tanh(clamp(logit / params.softcap, -15.0, 15.0));
    }
    output[at] = logit;
#else
    output[at] = value;
#endif
#endif
#endif
}

// Rows `row` to `row + 3` of the chunk (`row` is a multiple of 4); those that do not exist are left alone.
fn write_rows(token: u32, row: u32, sums: vec4<f32>) {
    let v = vec4(biased(row, sums.x), biased(row + 1u, sums.y), biased(row + 2u, sums.z), biased(row + 3u, sums.w));
#ifdef GLU
    // Rows are gate, up, gate, up.
    let at = token * params.output_stride + output_row(row) / 2u;
    if row < params.rows {
        output[at] = gated(v.x, v.y);
    }
    if row + 2u < params.rows {
        output[at + 1u] = gated(v.z, v.w);
    }
#else
    write_value(token, row, v.x);
    write_value(token, row + 1u, v.y);
    write_value(token, row + 2u, v.z);
    write_value(token, row + 3u, v.w);
#endif
}
