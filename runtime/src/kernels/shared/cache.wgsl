// The paged key/value cache: pages of PAGE tokens, elements [page][kv_head][slot][head_dim].

const PAGE: u32 = 64u;
// A token whose sequence is IDLE takes no part in the step.
const IDLE: u32 = 0xffffffffu;

override HEAD_DIM: u32;
override KV_HEADS: u32;
// Pages in a row of the page table.
override MAX_PAGES: u32;

#ifdef CACHE_F16
// Four f16 in two words.
fn widen_packed(x: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(x.x), unpack2x16float(x.y));
}

#ifdef F16
alias Stored = vec4<f16>;

fn widen(x: Stored) -> vec4<f32> {
    return vec4<f32>(x);
}

fn narrow(x: vec4<f32>) -> Stored {
    return vec4<f16>(clamp(x, vec4<f32>(-65504.0), vec4<f32>(65504.0)));
}
#else
alias Stored = vec2<u32>;

fn widen(x: Stored) -> vec4<f32> {
    return widen_packed(x);
}

fn narrow(x: vec4<f32>) -> Stored {
    let y = clamp(x, vec4<f32>(-65504.0), vec4<f32>(65504.0));
    return vec2<u32>(pack2x16float(y.xy), pack2x16float(y.zw));
}
#endif
#else
alias Stored = vec4<f32>;

fn widen(x: Stored) -> vec4<f32> {
    return x;
}

fn narrow(x: vec4<f32>) -> Stored {
    return x;
}
#endif

// Index of the first `Stored` of one token's head.
fn cache_row(page: u32, kv_head: u32, slot: u32) -> u32 {
    return ((page * KV_HEADS + kv_head) * PAGE + slot) * (HEAD_DIM / 4u);
}
