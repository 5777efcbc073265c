// The Cholesky factor of a block of 64 × 64 on the diagonal, and the inverse of the factor, by one workgroup: columns are
// eliminated one after the other, in the block and in the identity beside it.

struct Params {
    // Rows and columns of the block that exist; those beyond are taken for the identity's.
    count: u32,
    // Where the block begins in the matrix, and in its factor, and numbers from row to row of these.
    at: u32,
    pitch: u32,
    // Where its inverse begins; rows of that are 64 numbers.
    inverse_at: u32,
}

const WORKGROUP: u32 = 256u;
const BLOCK: u32 = 64u;
// Row i has the factor's columns up to i, then, from column i + 1 on, column i of the inverse.
const PITCH: u32 = 66u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> matrix: array<f32>;
@group(0) @binding(2) var<storage, read_write> factor: array<f32>;
@group(0) @binding(3) var<storage, read_write> inverses: array<f32>;
// 1 where the matrix was not positive.
@group(0) @binding(4) var<storage, read_write> failed: array<u32>;

var<workgroup> block: array<f32, 4224>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(local_invocation_index) lane: u32) {
    for (var i = lane; i < BLOCK * BLOCK; i += WORKGROUP) {
        let row = i / BLOCK;
        let column = i % BLOCK;
        if column <= row {
            var value = select(0.0, 1.0, row == column);
            block[column * PITCH + row + 1u] = value;
            if row < params.count {
                value = matrix[params.at + row * params.pitch + column];
            }
            block[row * PITCH + column] = value;
        }
    }
    workgroupBarrier();
    // Four invocations share a row.
    let row = lane / 4u;
    let part = lane % 4u;
    for (var j = 0u; j < BLOCK; j++) {
        let diagonal = block[j * PITCH + j];
        workgroupBarrier();
        let inverse = 1.0 / sqrt(diagonal);
        if row == j {
            for (var c = part; c < j; c += 4u) {
                block[c * PITCH + j + 1u] *= inverse;
            }
            if part == 0u {
                block[j * PITCH + j + 1u] = inverse;
                block[j * PITCH + j] = diagonal * inverse;
                if !(diagonal > 0.0) || diagonal > 3e38 {
                    failed[0] = 1u;
                }
            }
        } else if row > j && part == 0u {
            block[row * PITCH + j] *= inverse;
        }
        workgroupBarrier();
        if row > j {
            let by = block[row * PITCH + j];
            for (var k = j + 1u + part; k <= row; k += 4u) {
                block[row * PITCH + k] -= by * block[k * PITCH + j];
            }
            for (var c = part; c <= j; c += 4u) {
                block[c * PITCH + row + 1u] -= by * block[c * PITCH + j + 1u];
            }
        }
        workgroupBarrier();
    }
    for (var i = lane; i < BLOCK * BLOCK; i += WORKGROUP) {
        let r = i / BLOCK;
        let c = i % BLOCK;
        var value = 0.0;
        var of_inverse = 0.0;
        if c <= r {
            value = block[r * PITCH + c];
            of_inverse = block[c * PITCH + r + 1u];
        }
        if r < params.count && c < params.count {
            factor[params.at + r * params.pitch + c] = value;
        }
        inverses[params.inverse_at + i] = of_inverse;
    }
}
