// What queries are multiplied with at a position: they grow with how often the original context fits before it.

override BETA: f32;
override ORIGINAL_CONTEXT: u32;

fn query_scale(position: u32) -> f32 {
    return 1.0 + BETA * log(f32(1u + position / ORIGINAL_CONTEXT));
}
