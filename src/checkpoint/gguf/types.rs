//! Number formats of GGUF tensors, by the numbers that the files have for them.

use super::super::tensor::Dtype;
use candle_core::quantized::GgmlDType;

/// A number format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// As ggml writes it.
    pub(super) name: &'static str,
    pub(super) dtype: Dtype,
}

impl Kind {
    /// Whether a model in it has lost some of its quality. Q8_0 counts as a source, next to f16.
    pub(super) fn is_lossy(self) -> bool {
        match self.dtype {
            Dtype::Ggml(t) => t != GgmlDType::Q8_0,
            Dtype::Mxfp4Blocks => true,
            _ => false,
        }
    }
}

/// Formats that are read; candle dequantizes the blocks, but for MXFP4.
const KINDS: [(u32, Kind); 14] = [
    (0, Kind { name: "F32", dtype: Dtype::F32 }),
    (1, Kind { name: "F16", dtype: Dtype::F16 }),
    (30, Kind { name: "BF16", dtype: Dtype::Bf16 }),
    (8, block("Q8_0", GgmlDType::Q8_0)),
    (2, block("Q4_0", GgmlDType::Q4_0)),
    (3, block("Q4_1", GgmlDType::Q4_1)),
    (6, block("Q5_0", GgmlDType::Q5_0)),
    (7, block("Q5_1", GgmlDType::Q5_1)),
    (10, block("Q2_K", GgmlDType::Q2K)),
    (11, block("Q3_K", GgmlDType::Q3K)),
    (12, block("Q4_K", GgmlDType::Q4K)),
    (13, block("Q5_K", GgmlDType::Q5K)),
    (14, block("Q6_K", GgmlDType::Q6K)),
    (39, Kind { name: "MXFP4", dtype: Dtype::Mxfp4Blocks }),
];

const fn block(name: &'static str, dtype: GgmlDType) -> Kind {
    Kind { name, dtype: Dtype::Ggml(dtype) }
}

/// Formats that are refused by name.
const REFUSED: [(u32, &str); 27] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
    (40, "NVFP4"),
];

/// The format of that number, or the name of one that cannot be read.
pub(super) fn kind(number: u32) -> Result<Kind, String> {
    if let Some((_, kind)) = KINDS.iter().find(|(n, _)| *n == number) {
        return Ok(*kind);
    }
    let refused = REFUSED.iter().find(|(n, _)| *n == number);
    Err(refused.map_or_else(|| format!("format {number}"), |(_, name)| (*name).into()))
}

/// Names of all formats that are read.
pub(super) fn supported() -> String {
    KINDS.map(|(_, kind)| kind.name).join(", ")
}
