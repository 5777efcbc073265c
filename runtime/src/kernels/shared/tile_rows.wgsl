// Which rows and tokens the tile of a workgroup has. Rows are numbered in the chunk, tokens in the step. With EXPERTS the matrix is that of all
// experts, and the tile has rows of one expert and pairs of token and expert (`sort_experts`): a pair reads the activations of its token,
// or with EACH its own, and writes an output of its own. The kernel declares `params`.

#ifdef EXPERTS
override ACTIVE: u32;
override EXPERT_ROWS: u32;
override TILES: u32;

@group(0) @binding(7) var<storage, read> groups: array<u32>;

// What `tile_of` says: the same for all invocations, which naga sees only in what comes from workgroup memory.
var<workgroup> shared_tile: vec3<u32>;
// The matrix' rows before the expert's; the tile's first place in the order of pairs; its pairs.
var<private> rows_before: u32;
var<private> first_pair: u32;
var<private> pairs: u32;

// These three numbers. No pairs where no row from the expert's row `first` to `first + rows - 1` is in the chunk.
fn tile_of(tile: u32, first: u32, rows: u32) -> vec3<u32> {
    let before = groups[tile * 3u] * EXPERT_ROWS;
    let begin = before + first;
    let in_chunk = begin < params.first_row + params.rows && begin + rows > params.first_row;
    return vec3(before, groups[tile * 3u + 1u], select(0u, groups[tile * 3u + 2u], in_chunk));
}

fn take_tile(tile: vec3<u32>) {
    rows_before = tile.x;
    first_pair = tile.y;
    pairs = tile.z;
}

fn pair_of(token: u32) -> u32 {
    return groups[TILES * 3u + first_pair + min(token, pairs - 1u)];
}

// The row of the chunk that is row `own` of the workgroup's matrix, a multiple of 4. Where there is none, a number beyond the chunk's
// rows, and so are the three after it: experts have whole fours of rows, and chunks begin with fours.
fn chunk_row(own: u32) -> u32 {
    return select(0xfffffff0u, rows_before + own - params.first_row, own < EXPERT_ROWS);
}

fn output_row(row: u32) -> u32 {
    return params.first_row + row - rows_before;
}

// The row of activations that a token of the tile reads; that of the last token for those that do not exist.
fn input_token(token: u32) -> u32 {
#ifdef EACH
    return pair_of(token);
#else
    return pair_of(token) / ACTIVE;
#endif
}

fn is_token(token: u32) -> bool {
    return token < pairs;
}

fn output_token(token: u32) -> u32 {
    return pair_of(token);
}
#else
fn chunk_row(own: u32) -> u32 {
    return own;
}

fn output_row(row: u32) -> u32 {
    return params.first_row + row;
}

fn input_token(token: u32) -> u32 {
    return min(token, params.tokens - 1u);
}

fn is_token(token: u32) -> bool {
    return token < params.tokens;
}

fn output_token(token: u32) -> u32 {
    return token;
}
#endif
