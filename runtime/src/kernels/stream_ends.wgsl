// A stream of a token before the first layer, or after the last: a workgroup a token. With x scaled to the root mean square of
// hidden
//   streams[STREAM] = x, and with the first of these streams[0] = hidden
// or with END, and x scaled to that of streams[0],
//   hidden = (streams[0] + x) / STREAMS, or hidden += x / STREAMS for all but the first of these
// or where STREAM is 0
//   streams[1], … += MULTIPLIER * x.

#import workgroup_sum

override HIDDEN: u32;
// f32 values from one token's row to the next one's.
override PITCH: u32;
override STREAMS_PITCH: u32;
override STREAMS: u32;
override STREAM: u32;
override END: bool;
override MULTIPLIER: f32;
override SMALLEST: f32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> hidden: array<f32>;
@group(0) @binding(2) var<storage, read_write> streams: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.x * PITCH;
    let first = group.x * STREAMS_PITCH;
    var squares = 0.0;
    var wanted = 0.0;
    for (var i = local; i < HIDDEN; i += WORKGROUP) {
        var like = hidden[row + i];
        if END {
            like = streams[first + i];
        }
        squares += x[row + i] * x[row + i];
        wanted += like * like;
    }
    let size = sqrt(workgroup_sum(wanted, local) / max(workgroup_sum(squares, local), SMALLEST * f32(HIDDEN)));
    for (var i = local; i < HIDDEN; i += WORKGROUP) {
        let value = x[row + i];
        if STREAM == 0u {
            for (var s = 1u; s < STREAMS; s++) {
                streams[first + s * HIDDEN + i] += MULTIPLIER * value;
            }
        } else if END {
            let before = select(hidden[row + i], streams[first + i] / f32(STREAMS), STREAM == 1u);
            hidden[row + i] = before + value * size / f32(STREAMS);
        } else {
            if STREAM == 1u {
                streams[first + i] = hidden[row + i];
            }
            streams[first + STREAM * HIDDEN + i] = value * size;
        }
    }
}
