// How kernels that take many tokens of one sequence deal out their work. The rows of a key/value head are the queries
// of all its heads, token by token: row = token × GROUP + head in the group. A workgroup takes a tile of them and a
// part of the keys that they see; `tokens` is declared by whoever imports this.

// Query heads that share a key/value head.
override GROUP: u32;
// Most parts that the keys of a tile are cut into.
override SPLITS: u32;

// Fewer keys than these are not worth a part of their own.
const PART_KEYS: u32 = 256u;

// The last token of first..=last that takes part in the step, if the first does: idle ones are at the end.
fn last_live(first: u32, last: u32) -> u32 {
    var t = last;
    while t > first && tokens[t].z == IDLE {
        t -= 1u;
    }
    return t;
}

struct Parts {
    // First key, a multiple of `tile`, and the one after the last.
    begin: u32,
    end: u32,
    // Parts, and the keys of each but the last, a multiple of `tile`.
    count: u32,
    share: u32,
}

// The keys that tokens at positions first..=last see, in tiles of `tile` keys.
fn parts_of(first: u32, last: u32, tile: u32) -> Parts {
    var parts: Parts;
    parts.begin = first_seen(first) / tile * tile;
    parts.end = last + 1u;
    let keys = parts.end - parts.begin;
    let most = clamp(keys / PART_KEYS, 1u, SPLITS);
    parts.share = (keys + most * tile - 1u) / (most * tile) * tile;
    parts.count = (keys + parts.share - 1u) / parts.share;
    return parts;
}

// Index of a part's result for a row in `partials`, in vec4: (largest score, sum of weights, 0, 0), then HEAD_DIM sums
// of weighted values.
fn record_of(part: u32, kv_head: u32, row: u32, num_rows: u32) -> u32 {
    return ((part * KV_HEADS + kv_head) * num_rows + row) * (HEAD_DIM / 4u + 1u);
}
