// Second half of sampling: a workgroup chooses a row's token.
//
// Nothing is sorted and nothing is summed in floats. A weight exp((logit - largest) / temperature) becomes a 64-bit
// integer in units of 2^-44, and every step asks the same question: cut what is left into 256 bins, in which bin does
// the running sum of counts or weights reach a target? Asked four times over the digits of the logits' order it gives
// the threshold of top-k or top-p; asked over ranges of ids it gives the token. Integer sums do not depend on the
// order in which invocations add, so one input has one answer.
//
// Reading a large vocabulary again and again is what would take long. The largest logits of the spans say where the
// few tokens are that survive top-k or top-p: they are listed in one pass, and all further steps read the list. Where
// the list turns out not to hold them all, the steps read everything.

#import sampling

override SPANS: u32;

@group(0) @binding(0) var<storage, read> logits: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> params: array<Params>;
@group(0) @binding(2) var<storage, read_write> seen: array<atomic<u32>>;
@group(0) @binding(3) var<storage, read> spans: array<vec4<u32>>;
// The chosen id of each row; IDLE for idle rows and where a logit is NaN or plus infinity or none is finite.
@group(0) @binding(4) var<storage, read_write> chosen: array<u32>;
#ifdef ADVANCE
// Tokens of the next step: gets the id, and a position one higher.
@group(0) @binding(5) var<storage, read_write> next: array<vec4<u32>>;
#endif
#ifdef MASKED
// Tokens that may be chosen: [row][SEEN_WORDS], a bit an id.
@group(0) @binding(6) var<storage, read> mask: array<u32>;
#endif

const CAPACITY: u32 = 1024u;

// Orders of the largest logits of spans, for one row.
var<workgroup> span_orders: array<u32, 256>;
var<workgroup> span_ids: array<u32, 256>;
var<workgroup> meaningless: atomic<u32>;
// The list: orders and ids, in no order.
var<workgroup> listed: array<vec2<u32>, CAPACITY>;
var<workgroup> num_listed: atomic<u32>;
var<workgroup> list_size: u32;
var<workgroup> list_least: u32;
var<workgroup> bins_low: array<atomic<u32>, 256>;
var<workgroup> bins_high: array<atomic<u32>, 256>;
var<workgroup> groups: array<vec2<u32>, 16>;
// Bin, sum before it (low, high), 1 where the target is beyond the sum of all.
var<workgroup> found: vec4<u32>;

// What stays the same while a row is worked on.
struct Row {
    index: u32,
    sequence: u32,
    penalty: f32,
    temperature: f32,
    largest: f32,
    largest_order: u32,
    // Where the list is read, its length; else 0.
    listed: u32,
}

// 64-bit sums of (low, high).
fn plus(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn minus(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}

fn less(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.y < b.y || (a.y == b.y && a.x < b.x);
}

// 64-bit product of two words.
fn multiply_wide(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let middle = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let other = (a & 0xffffu) * (b >> 16u) + (middle & 0xffffu);
    return vec2<u32>((other << 16u) | (low & 0xffffu), (a >> 16u) * (b >> 16u) + (middle >> 16u) + (other >> 16u));
}

// x × share / 2^24, rounded down, and 1 more where `up` and a remainder is left. share is below 2^24.
fn portion(x: vec2<u32>, share: u32, up: bool) -> vec2<u32> {
    let low = multiply_wide(x.x, share);
    let high = plus(multiply_wide(x.y, share), vec2<u32>(low.y, 0u));
    let quotient = vec2<u32>((low.x >> 24u) | (high.x << 8u), (high.x >> 24u) | (high.y << 8u));
    return plus(quotient, vec2<u32>(select(0u, 1u, up && (low.x & 0xffffffu) != 0u), 0u));
}

// Four tokens.
struct Quad {
    orders: vec4<u32>,
    ids: vec4<u32>,
}

// Tokens 4 i .. 4 i + 3 of the vocabulary; orders beyond its end are EXCLUDED.
fn read_quad(row: Row, i: u32) -> Quad {
    let bits = logits[(row.index * PITCH) / 4u + i];
    let ids = vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u);
    var seen_bits = 0u;
    if row.penalty != 1.0 {
        seen_bits = atomicLoad(&seen[row.sequence * SEEN_WORDS + i / 8u]);
    }
    var orders = vec4<u32>(
        penalized(bits.x, ids.x, seen_bits, row.penalty),
        penalized(bits.y, ids.y, seen_bits, row.penalty),
        penalized(bits.z, ids.z, seen_bits, row.penalty),
        penalized(bits.w, ids.w, seen_bits, row.penalty),
    );
#ifdef MASKED
    let allowed = vec4<u32>(mask[row.index * SEEN_WORDS + min(i / 8u, SEEN_WORDS - 1u)]) >> (ids % vec4<u32>(32u));
    orders = select(vec4<u32>(EXCLUDED), orders, (allowed & vec4<u32>(1u)) != vec4<u32>(0u));
#endif
    return Quad(select(vec4<u32>(EXCLUDED), orders, ids < vec4<u32>(VOCAB)), ids);
}

// Four of the tokens that are left, from the list or from the vocabulary.
fn quad(row: Row, i: u32) -> Quad {
    if row.listed == 0u {
        return read_quad(row, i);
    }
    let a = listed[4u * i];
    let b = listed[4u * i + 1u];
    let c = listed[4u * i + 2u];
    let d = listed[4u * i + 3u];
    let at = vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u);
    let orders = select(vec4<u32>(EXCLUDED), vec4<u32>(a.x, b.x, c.x, d.x), at < vec4<u32>(row.listed));
    return Quad(orders, vec4<u32>(a.y, b.y, c.y, d.y));
}

fn weight(row: Row, order: u32) -> f32 {
    if order >= row.largest_order {
        return 1.0;
    }
    return clamp(exp((float_of(order) - row.largest) / row.temperature), 0.0, 1.0);
}

// A weight from 0 to 1 in units of 2^-44.
fn mass(weight: f32) -> vec2<u32> {
    let bits = bitcast<u32>(weight);
    let mantissa = (bits & 0x7fffffu) | 0x800000u;
    let shift = i32(bits >> 23u) - 106;
    if shift > 0 {
        let s = u32(shift);
        return vec2<u32>(mantissa << s, mantissa >> (32u - s));
    }
    return vec2<u32>(select(0u, mantissa >> u32(min(-shift, 31)), shift > -24), 0u);
}

fn clear_bins(local: u32) {
    workgroupBarrier();
    atomicStore(&bins_low[local], 0u);
    atomicStore(&bins_high[local], 0u);
    workgroupBarrier();
}

fn add(bin: u32, x: vec2<u32>) {
    let old = atomicAdd(&bins_low[bin], x.x);
    let high = x.y + select(0u, 1u, old + x.x < old);
    if high != 0u {
        atomicAdd(&bins_high[bin], high);
    }
}

fn bin(i: u32) -> vec2<u32> {
    return vec2<u32>(atomicLoad(&bins_low[i]), atomicLoad(&bins_high[i]));
}

// Fills `groups` with the sums of 16 bins each, and returns the sum of all.
fn sum_bins(local: u32) -> vec2<u32> {
    workgroupBarrier();
    if local < 16u {
        var sum = vec2<u32>(0u);
        for (var i = 0u; i < 16u; i++) {
            sum = plus(sum, bin(local * 16u + i));
        }
        groups[local] = sum;
    }
    workgroupBarrier();
    var total = vec2<u32>(0u);
    for (var i = 0u; i < 16u; i++) {
        total = plus(total, groups[i]);
    }
    return total;
}

// After sum_bins: the bin where the running sum, from `before` on, reaches `target_sum` (at least 1).
fn find(local: u32, before: vec2<u32>, target_sum: vec2<u32>) -> vec4<u32> {
    if local == 0u {
        var sum = before;
        var g = 0u;
        while g < 15u && less(plus(sum, groups[g]), target_sum) {
            sum = plus(sum, groups[g]);
            g++;
        }
        var i = 16u * g;
        while i < 16u * g + 15u && less(plus(sum, bin(i)), target_sum) {
            sum = plus(sum, bin(i));
            i++;
        }
        found = vec4<u32>(i, sum, select(0u, 1u, less(plus(sum, bin(i)), target_sum)));
    }
    return workgroupUniformLoad(&found);
}

// Lists the tokens from the wanted-th largest of the spans' largest logits on, and returns the sum of the weights of
// the whole vocabulary. `list_size` is 0 where they are too many.
fn list_largest(row: Row, local: u32, wanted: u32) -> vec2<u32> {
    if local == 0u {
        atomicStore(&num_listed, 0u);
    }
    let mine = span_orders[local];
    var larger = 0u;
    for (var i = 0u; i < SPANS; i++) {
        larger += select(0u, 1u, span_orders[i] > mine || (span_orders[i] == mine && i < local));
    }
    if local < SPANS && larger == wanted - 1u {
        list_least = max(mine, EXCLUDED + 1u);
    }
    clear_bins(local);
    let least = workgroupUniformLoad(&list_least);
    var sum = vec2<u32>(0u);
    for (var i = local; i < (VOCAB + 3u) / 4u; i += 512u) {
        // Two loads on their way at once.
        let quads = array<Quad, 2>(read_quad(row, i), read_quad(row, min(i + 256u, PITCH / 4u - 1u)));
        for (var k = 0u; k < 2u; k++) {
            if i + 256u * k >= (VOCAB + 3u) / 4u {
                break;
            }
            let four = quads[k];
            for (var c = 0u; c < 4u; c++) {
                let o = four.orders[c];
                if o > EXCLUDED {
                    sum = plus(sum, mass(weight(row, o)));
                }
                if o >= least {
                    let at = atomicAdd(&num_listed, 1u);
                    if at < CAPACITY {
                        listed[at] = vec2<u32>(o, four.ids[c]);
                    }
                }
            }
        }
    }
    add(local, sum);
    let total = sum_bins(local);
    if local == 0u {
        let n = atomicLoad(&num_listed);
        list_size = select(0u, n, n <= CAPACITY);
    }
    workgroupBarrier();
    return total;
}

// The least order that stays, among those of at least `least`; 0 where the list does not reach that far. By counts
// (`share` is k): the share-th largest. By weights (`share` in units of 2^-24): orders stay whose strictly larger ones
// sum to less than this share of all, which is `all` where that is not 0.
fn threshold(row: Row, local: u32, least: u32, by_weight: bool, share: u32, all: vec2<u32>) -> u32 {
    var prefix = 0u;
    var before = vec2<u32>(0u);
    var target_sum = vec2<u32>(share, 0u);
    let end = (select(VOCAB, row.listed, row.listed != 0u) + 3u) / 4u;
    for (var level = 0u; level < 4u; level++) {
        let shift = 24u - 8u * level;
        clear_bins(local);
        for (var i = local; i < end; i += 256u) {
            let four = quad(row, i);
            for (var c = 0u; c < 4u; c++) {
                let o = four.orders[c];
                // The digits above this level's; none at level 0.
                let same = level == 0u || (o >> (shift + 8u * min(level, 1u))) == prefix;
                if o >= least && same {
                    // Largest first.
                    let digit = 255u - ((o >> shift) & 255u);
                    if by_weight {
                        add(digit, mass(weight(row, o)));
                    } else {
                        add(digit, vec2<u32>(1u, 0u));
                    }
                }
            }
        }
        let sum = sum_bins(local);
        if level == 0u {
            if by_weight {
                target_sum = portion(select(all, sum, all.x == 0u && all.y == 0u), share, true);
            } else if row.listed == 0u && less(sum, target_sum) {
                target_sum = sum;
            }
        }
        let at = find(local, before, target_sum);
        if at.w != 0u {
            return 0u;
        }
        before = at.yz;
        prefix = (prefix << 8u) | (255u - at.x);
    }
    return prefix;
}

fn stays(row: Row, o: u32, least: u32, min_p: f32) -> bool {
    return o >= least && (o >= row.largest_order || weight(row, o) >= min_p);
}

// The id at which the running sum of weights exceeds the share `uniform_number` of all.
fn draw(row: Row, local: u32, least: u32, min_p: f32, uniform_number: u32) -> u32 {
    // 256 ranges of ids, then the ids of the range.
    var first = 0u;
    var end = VOCAB;
    var span = (VOCAB + 255u) / 256u;
    var before = vec2<u32>(0u);
    var target_sum = vec2<u32>(0u);
    for (var level = 0u; level < 4u; level++) {
        clear_bins(local);
        let all = row.listed != 0u;
        let quads_end = (select(end, row.listed, all) + 3u) / 4u;
        for (var i = select(first / 4u, 0u, all) + local; i < quads_end; i += 256u) {
            let four = quad(row, i);
            for (var c = 0u; c < 4u; c++) {
                let id = four.ids[c];
                if id >= first && id < end && stays(row, four.orders[c], least, min_p) {
                    add((id - first) / span, mass(weight(row, four.orders[c])));
                }
            }
        }
        let total = sum_bins(local);
        if level == 0u {
            target_sum = plus(portion(total, uniform_number, false), vec2<u32>(1u, 0u));
        }
        let at = find(local, before, target_sum);
        before = at.yz;
        first += at.x * span;
        end = min(first + span, VOCAB);
        if span == 1u {
            break;
        }
        span = (span + 255u) / 256u;
    }
    return first;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let t = group.x;
    let p = params[t];
    if p.sequence == IDLE {
        if local == 0u {
            chosen[t] = IDLE;
        }
        return;
    }
    // At most 256 spans: one an invocation.
    span_orders[local] = EXCLUDED;
    if local == 0u {
        atomicStore(&meaningless, 0u);
    }
    workgroupBarrier();
    if local < SPANS {
        let span = spans[t * SPANS + local];
        span_orders[local] = span.x;
        span_ids[local] = span.y;
        atomicOr(&meaningless, span.z);
    }
    workgroupBarrier();
    if local == 0u {
        var top = vec3<u32>(EXCLUDED, 0u, 0u);
        for (var i = 0u; i < SPANS; i++) {
            top = better(top, vec3<u32>(span_orders[i], span_ids[i], 0u));
        }
        found = vec4<u32>(top.xy, atomicLoad(&meaningless), 0u);
    }
    let top = workgroupUniformLoad(&found);
    var id = top.y;
    if top.z != 0u || top.x <= EXCLUDED {
        id = IDLE;
    } else if p.temperature != 0.0 {
        var row = Row(t, p.sequence, p.repetition_penalty, p.temperature, float_of(top.x), top.x, 0u);
        let by_count = p.top_k != 0u;
        var all = vec2<u32>(0u);
        if by_count || p.top_p < 0x1000000u {
            // As many spans as top-k wants tokens, or enough for most of the weight.
            let wanted = select(SPANS / 2u + 1u, min(p.top_k, SPANS), by_count);
            all = list_largest(row, local, min(wanted, SPANS));
            row.listed = workgroupUniformLoad(&list_size);
        }
        // Step 0 is top-k, step 1 top-p; a step that the list fails is done again with everything.
        var least = EXCLUDED + 1u;
        var step = 0u;
        while step < 2u {
            let by_weight = step == 1u;
            if select(by_count, p.top_p < 0x1000000u, by_weight) {
                // After top-k the sum is that of what top-k left.
                let sum = select(all, vec2<u32>(0u), by_count);
                let o = threshold(row, local, least, by_weight, select(p.top_k, p.top_p, by_weight), sum);
                if o == 0u {
                    row.listed = 0u;
                    continue;
                }
                least = o;
            }
            step++;
        }
        id = draw(row, local, least, p.min_p, p.uniform_number);
    }
    if local == 0u {
        chosen[t] = id;
        if id != IDLE {
            atomicOr(&seen[p.sequence * SEEN_WORDS + id / 32u], 1u << (id % 32u));
#ifdef ADVANCE
            next[t] = vec4<u32>(id, next[t].y + 1u, next[t].zw);
#endif
        }
    }
}
