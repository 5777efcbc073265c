// Residual streams x of a token before and after a layer's blocks, which compute the one that is ACTIVE: a workgroup a token.
//
// With r = tanh(router · (y / sqrt(mean(y^2) + EPSILON) * gain) / HIDDEN) of y = x[ACTIVE]
//   x[i] += sum of C[i, j] x[j] with C = coefficients · r; hidden = x[ACTIVE]
// or with CORRECT, and y = hidden,
//   x[i] += (1 + coefficients[i] · r) * (y - x[ACTIVE]); hidden = x[ACTIVE], with SCALED times scale.

#import workgroup_sum

override HIDDEN: u32;
// f32 values from one token's row to the next one's.
override PITCH: u32;
override STREAMS_PITCH: u32;
// 8 at most.
override STREAMS: u32;
override ACTIVE: u32;
override EPSILON: f32;
override CORRECT: bool;

@group(0) @binding(0) var<storage, read> gain: array<f32>;
@group(0) @binding(1) var<storage, read> router: array<f32>;
@group(0) @binding(2) var<storage, read> coefficients: array<f32>;
@group(0) @binding(3) var<storage, read_write> streams: array<f32>;
@group(0) @binding(4) var<storage, read_write> hidden: array<f32>;
#ifdef SCALED
@group(0) @binding(5) var<storage, read> scale: array<f32>;
#endif

var<workgroup> c: array<f32, 64>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.x * PITCH;
    let first = group.x * STREAMS_PITCH;
    let own = first + ACTIVE * HIDDEN;
    var squares = 0.0;
    var r: array<f32, 8>;
    for (var i = local; i < HIDDEN; i += WORKGROUP) {
        var y = streams[own + i];
        if CORRECT {
            y = hidden[row + i];
        }
        squares += y * y;
        for (var s = 0u; s < STREAMS; s++) {
            r[s] = fma(y * gain[i], router[s * HIDDEN + i], r[s]);
        }
    }
    let factor = 1.0 / (sqrt(workgroup_sum(squares, local) / f32(HIDDEN) + EPSILON) * f32(HIDDEN));
    for (var s = 0u; s < STREAMS; s++) {
        r[s] = tanh(clamp(factor * workgroup_sum(r[s], local), -20.0, 20.0));
    }
    if local < select(STREAMS * STREAMS, STREAMS, CORRECT) {
        var sum = select(0.0, 1.0, CORRECT);
        for (var s = 0u; s < STREAMS; s++) {
            sum = fma(coefficients[local * STREAMS + s], r[s], sum);
        }
        c[local] = sum;
    }
    workgroupBarrier();
    for (var i = local; i < HIDDEN; i += WORKGROUP) {
        var x: array<f32, 8>;
        for (var s = 0u; s < STREAMS; s++) {
            x[s] = streams[first + s * HIDDEN + i];
        }
        let innovation = hidden[row + i] - x[ACTIVE];
        for (var s = 0u; s < STREAMS; s++) {
            var sum = x[s];
            if CORRECT {
                sum = fma(c[s], innovation, sum);
            } else {
                for (var j = 0u; j < STREAMS; j++) {
                    sum = fma(c[s * STREAMS + j], x[j], sum);
                }
            }
            streams[first + s * HIDDEN + i] = sum;
            if s == ACTIVE {
#ifdef SCALED
                sum *= scale[i];
#endif
                hidden[row + i] = sum;
            }
        }
    }
}
