// Normalizes heads of rows where they lie: y = (x - centre) / sqrt(mean((x - centre)²) + ε) · gain + bias. A whole row is one
// head. One workgroup a head of a row.

#import workgroup_sum

struct Params {
    // Workgroups that have something to do: rows × heads.
    count: u32,
    heads: u32,
    width: u32,
    // Numbers from row to row, and where the first head begins in a row.
    pitch: u32,
    first: u32,
    epsilon: f32,
    // Numbers from the gains of a head to those of the next: 0 if all share them.
    gain_pitch: u32,
    padding: u32,
}

// Whether the mean is taken off.
override CENTRED: bool = false;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gain: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let index = workgroup.y * workgroups.x + workgroup.x;
    if index >= params.count {
        return;
    }
    let head = index % params.heads;
    let begin = (index / params.heads) * params.pitch + params.first + head * params.width;
    var centre = 0.0;
    if CENTRED {
        var sum = 0.0;
        for (var i = lane; i < params.width; i += WORKGROUP) {
            sum += x[begin + i];
        }
        centre = workgroup_sum(sum, lane) / f32(params.width);
    }
    var squares = 0.0;
    for (var i = lane; i < params.width; i += WORKGROUP) {
        let d = x[begin + i] - centre;
        squares = fma(d, d, squares);
    }
    let deviation = sqrt(workgroup_sum(squares, lane) / f32(params.width) + params.epsilon);
    let gains = head * params.gain_pitch;
    for (var i = lane; i < params.width; i += WORKGROUP) {
        x[begin + i] = (x[begin + i] - centre) / deviation * gain[gains + i] + bias[gains + i];
    }
}
