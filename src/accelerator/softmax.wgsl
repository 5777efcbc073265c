// Products of queries and keys to how much each position counts: scaled, capped, and the exponentials of those positions that
// a query sees, divided by their sum. The others are zero. One workgroup a query; queries of a window follow each other.

#import workgroup_sum

struct Params {
    // Queries, and positions of a window.
    rows: u32,
    length: u32,
    // Numbers from row to row.
    pitch: u32,
    // Positions seen, the query's own included.
    window: u32,
    scale: f32,
    // No cap where it is 0.
    cap: f32,
    // Queries at position p are multiplied with 1 + beta ln(1 + p / original_context): so are their products with keys.
    beta: f32,
    original_context: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
// A score of each of SINKS heads that joins the others'. Rows of a head follow each other, then those of the next.
@group(0) @binding(2) var<storage, read> sinks: array<f32>;

override SINKS: u32;

var<workgroup> largest: array<f32, 256>;

fn workgroup_max(value: f32, lane: u32) -> f32 {
    largest[lane] = value;
    workgroupBarrier();
    for (var n = WORKGROUP / 2u; n > 0u; n /= 2u) {
        if lane < n {
            largest[lane] = max(largest[lane], largest[lane + n]);
        }
        workgroupBarrier();
    }
    return largest[0];
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let row = workgroup.y * workgroups.x + workgroup.x;
    if row >= params.rows {
        return;
    }
    let end = row % params.length + 1u;
    let start = max(end, params.window) - params.window;
    let begin = row * params.pitch;
    let scale = params.scale * (1.0 + params.beta * log(f32(1u + (end - 1u) / params.original_context)));
    var most = -3e38;
    for (var i = start + lane; i < end; i += WORKGROUP) {
        var score = scale * x[begin + i];
        if params.cap > 0.0 {
            score = params.cap * tanh(clamp(score / params.cap, -20.0, 20.0));
        }
        x[begin + i] = score;
        most = max(most, score);
    }
    most = workgroup_max(most, lane);
    var sum = 0.0;
    for (var i = start + lane; i < end; i += WORKGROUP) {
        let e = exp(max(x[begin + i] - most, -87.0));
        x[begin + i] = e;
        sum += e;
    }
    sum = workgroup_sum(sum, lane);
    sum += exp(sinks[row / params.length % SINKS] - most);
    // Each number is written by the invocation that read it.
    for (var i = start + lane; i < end; i += WORKGROUP) {
        x[begin + i] /= sum;
    }
    for (var i = lane; i < start; i += WORKGROUP) {
        x[begin + i] = 0.0;
    }
    for (var i = end + lane; i < params.pitch; i += WORKGROUP) {
        x[begin + i] = 0.0;
    }
}
