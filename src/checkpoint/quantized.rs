//! Formats of quantized weights, known by the names that they give tensors, whatever a config says.

/// A format, and a tensor that shows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) name: &'static str,
    pub(super) tensor: String,
}

/// A format by the end of a name, where another one has to be there too.
struct Sign {
    end: &'static str,
    /// One of these ends is there too; any file if there are none.
    with: &'static [&'static str],
    name: &'static str,
}

const fn sign(end: &'static str, with: &'static [&'static str], name: &'static str) -> Sign {
    Sign { end, with, name }
}

/// Those that are a part of another's come behind it.
const SIGNS: [Sign; 24] = [
    sign(".qweight", &[".g_idx"], "GPTQ"),
    sign(".qweight", &[".qzeros"], "AWQ or GPTQ"),
    sign(".qweight", &[], "GPTQ, AWQ or alike"),
    sign(".quant_state.bitsandbytes__nf4", &[], "bitsandbytes NF4"),
    sign(".quant_state.bitsandbytes__fp4", &[], "bitsandbytes FP4"),
    sign(".absmax", &[".quant_map"], "bitsandbytes"),
    sign(".SCB", &[], "bitsandbytes 8-bit"),
    sign(".weight_packed", &[], "compressed-tensors"),
    sign(".weight_scale_2", &[], "NVFP4 (ModelOpt)"),
    sign(".weight_scale_inv", &[], "FP8 in blocks"),
    sign(".weight_scale", &[], "FP8 or 8-bit integers with scales"),
    sign("_blocks", &["_scales"], "MXFP4"),
    sign(".W_q", &[], "HQQ"),
    sign(".q_weight", &[".q_scale"], "EXL2"),
    sign(".trellis", &[], "EXL3 or QTIP"),
    sign(".codebooks", &[".codes"], "AQLM"),
    sign(".Qidxs", &[], "QuIP#"),
    sign(".centroids", &[".indices"], "VPTQ"),
    sign(".weight._data", &[], "Quanto"),
    sign(".weight._scale", &[], "Quanto"),
    sign(".weight_scales", &[], "EETQ"),
    sign(".weight.qdata", &[], "torchao"),
    sign(".weight_qdata", &[], "torchao"),
    sign(".scales", &[".biases"], "MLX"),
];

/// The format that a checkpoint's tensors, names with number formats, are in; none where they are plain.
pub(super) fn format<'a>(tensors: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Option<Format> {
    let ending = |end: &str| tensors.clone().find(|(name, _)| name.ends_with(end)).map(|(name, _)| name.to_string());
    let by_name = SIGNS.iter().find_map(|sign| {
        let tensor = ending(sign.end)?;
        let borne_out = sign.with.is_empty() || sign.with.iter().any(|end| ending(end).is_some());
        borne_out.then_some(Format { name: sign.name, tensor })
    });
    by_name.or_else(|| {
        let (name, label) = tensors.clone().find(|(name, label)| name.ends_with(".weight") && label.starts_with("F8_"))?;
        let format = if label == "F8_E4M3" { "FP8 (E4M3)" } else { "FP8" };
        Some(Format { name: format, tensor: name.to_string() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_their_names_and_plain_weights_are_none() {
        let of = |names: &[&'static str]| format(names.iter().map(|n| (*n, "I32"))).map(|f| f.name);
        assert_eq!(of(&["a.qweight", "a.qzeros", "a.g_idx"]), Some("GPTQ"));
        assert_eq!(of(&["a.qweight", "a.qzeros", "a.scales"]), Some("AWQ or GPTQ"));
        assert_eq!(of(&["a.weight", "a.scales", "a.biases"]), Some("MLX"));
        assert_eq!(of(&["a.weight", "a.weight_scale_inv"]), Some("FP8 in blocks"));
        assert_eq!(of(&["a.weight", "a.bias", "a.norm.weight"]), None);
        assert_eq!(format([("a.weight", "F8_E4M3")].into_iter()).map(|f| f.name), Some("FP8 (E4M3)"));
    }
}
