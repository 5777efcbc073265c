//! [`Flag`]: the names that shader files test with `#ifdef`.

use std::fmt;

macro_rules! flags {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A flag of the preprocessor. A shader file tests no other names, and each of these is tested somewhere
        /// (`kernels/tests.rs` says so).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Flag {
            $($(#[$doc])* $variant,)*
        }

        impl Flag {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name in shader files.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

flags! {
    /// The output is an activation of the sum.
    Activate = "ACTIVATE",
    /// The chosen id becomes the next step's token.
    Advance = "ADVANCE",
    /// There is a bias.
    Bias = "BIAS",
    /// A subgroup has matrices of 16 tokens: two.
    Blocks2 = "BLOCKS_2",
    /// The same, four.
    Blocks4 = "BLOCKS_4",
    /// Staged values are handed round a subgroup, four at a time.
    Broadcast = "BROADCAST",
    /// The same, eight at a time.
    Broadcast8 = "BROADCAST_8",
    /// The cache holds f16.
    CacheF16 = "CACHE_F16",
    /// Heads of up to 64 dimensions.
    Chunks2 = "CHUNKS_2",
    /// Heads of up to 96 dimensions.
    Chunks3 = "CHUNKS_3",
    /// Heads of up to 128 dimensions.
    Chunks4 = "CHUNKS_4",
    /// Heads of up to 512 dimensions.
    Chunks16 = "CHUNKS_16",
    /// Heads of up to 256 dimensions.
    Chunks8 = "CHUNKS_8",
    /// Accumulators for two tokens.
    Columns2 = "COLUMNS_2",
    /// Accumulators for four tokens.
    Columns4 = "COLUMNS_4",
    /// Accumulators for eight tokens.
    Columns8 = "COLUMNS_8",
    /// A token's experts are summed up.
    Combine = "COMBINE",
    /// The kernel computes a convolution.
    Convolve = "CONVOLVE",
    /// Numbers are copied, and nothing is multiplied.
    Copy = "COPY",
    /// Attention is not split over the keys.
    Direct = "DIRECT",
    /// Each expert of a token has an input of its own.
    Each = "EACH",
    /// A tile has rows of one of many experts, and tokens that use it.
    Experts = "EXPERTS",
    /// `enable f16;`, where the device has it; dropped elsewhere.
    F16 = "F16",
    /// Weights are f16.
    F16Weights = "F16_WEIGHTS",
    /// Weights are f32.
    F32Weights = "F32_WEIGHTS",
    /// Pairs of rows are gate and up.
    Glu = "GLU",
    /// Weights are codes with a scale a group.
    Grouped = "GROUPED",
    /// Two subgroups have a half of each head.
    HeadHalves = "HEAD_HALVES",
    /// Rows are those of query, key and value heads, which are rotated and written to the cache.
    Heads = "HEADS",
    /// Codes have a plane of high bits.
    HighBits = "HIGH_BITS",
    /// The kernel quantizes its activations itself.
    Inline = "INLINE",
    /// The last workgroup of split attention puts the others' results together.
    LastCombines = "LAST_COMBINES",
    /// Numbers are added, and the sum divided by the square root of 2.
    Laurel = "LAUREL",
    /// The norm takes the mean off.
    Layer = "LAYER",
    /// Codes stand for values of a learned table.
    Learned = "LEARNED",
    /// The output is a logit, with multiplier and soft cap.
    Logits = "LOGITS",
    /// The input is normalized on the way.
    Norm = "NORM",
    /// Queries and keys are normalized after their rotation.
    NormAfterRope = "NORM_AFTER_ROPE",
    /// Groups have an f16 offset.
    OffsetF16 = "OFFSET_F16",
    /// Groups have a zero point of four bits.
    OffsetU4 = "OFFSET_U4",
    /// Eight-bit activations lie as codes that are looked up in pairs.
    Paired = "PAIRED",
    /// Rows are those of positions.
    Positions = "POSITIONS",
    /// Codes of 3 bits.
    Q3 = "Q3",
    /// Codes of 4 bits.
    Q4 = "Q4",
    /// Codes of 5 bits.
    Q5 = "Q5",
    /// Codes of 8 bits.
    Q8 = "Q8",
    /// Queries and keys are normalized.
    QkNorm = "QK_NORM",
    /// Queries grow with their position.
    QueryScaling = "QUERY_SCALING",
    /// The output is added to the residual stream.
    Residual = "RESIDUAL",
    /// The output is multiplied with a number, or with gains.
    Scaled = "SCALED",
    /// Queries and keys are rotated.
    Rope = "ROPE",
    /// Two query heads a workgroup, or rows of a matrix at once.
    Rows2 = "ROWS_2",
    /// Three query heads a workgroup.
    Rows3 = "ROWS_3",
    /// Four query heads a workgroup, or rows of a matrix at once.
    Rows4 = "ROWS_4",
    /// Eight query heads a workgroup.
    Rows8 = "ROWS_8",
    /// Scales are of eight bits.
    ScaleE4m4 = "SCALE_E4M4",
    /// Sigmoids are multiplied with.
    Sigmoid = "SIGMOID",
    /// A score of its own for each head joins the softmax, and nothing else.
    Sinks = "SINKS",
    /// The columns that a sequence keeps are written.
    Store = "STORE",
    /// Subgroup operations, where the device has them; dropped elsewhere.
    Subgroups = "SUBGROUPS",
    /// The kernel needs its lane in the subgroup.
    SubgroupLane = "SUBGROUP_LANE",
    /// The table lies in eight lanes of a subgroup.
    TableEightLanes = "TABLE_EIGHT_LANES",
    /// The table lies in a subgroup's registers.
    TableSubgroup = "TABLE_SUBGROUP",
    /// The table lies in workgroup memory.
    TableWorkgroup = "TABLE_WORKGROUP",
    /// Only some tokens may be chosen.
    Masked = "MASKED",
    /// Cooperative matrices: `enable wgpu_cooperative_matrix;`.
    Matrices = "MATRICES",
    /// Activations are multiplied with other numbers at last.
    Times = "TIMES",
    /// Values are normalized.
    ValueNorm = "VALUE_NORM",
    /// Cached keys are read eight at a time.
    Wide = "WIDE",
    /// Heads of more than 256 dimensions.
    WideHeads = "WIDE_HEADS",
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
