//! From what an export calls a weight to what the model family calls it.
//!
//! PyTorch's exporters keep the modules' own names, behind whatever the module was wrapped in
//! (`lm.model.layers.0.self_attn.q_proj`); so a name fits if it ends in a wanted one without its base. ONNX Runtime
//! GenAI's builder calls some modules otherwise, the same for all families, and joins or splits projections.

use crate::checkpoint::Wanted;
use std::collections::HashMap;

/// What a tensor is, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// A wanted tensor.
    Whole(usize),
    /// Several, one after the other.
    Several(Vec<usize>),
    /// One part of a wanted tensor, of so many.
    PartOf { wanted: usize, part: usize, parts: usize },
}

/// Projections that some store as one.
const FUSED: [(&str, &[&str]); 3] = [
    ("qkv_proj", &["q_proj", "k_proj", "v_proj"]),
    ("gate_up_proj", &["gate_proj", "up_proj"]),
    ("input_linear", &["gate_proj", "up_proj"]),
];

/// What families call otherwise than GenAI's builder, which has the same names for all, or than their class in transformers.
const DIALECTS: [&[(&str, &str)]; 6] = [
    &[("qkv_proj", "in_proj_qkv"), ("z_proj", "in_proj_z"), ("b_proj", "in_proj_b"), ("a_proj", "in_proj_a")],
    &[("g_proj", "gate_proj")],
    &[("moe", "mlp")],
    &[("q_norm", "query_layernorm"), ("k_norm", "key_layernorm")],
    &[("mlp", "shared_mlp"), ("down_proj", "output_linear")],
    &[
        ("operator_layernorm", "operator_norm"),
        ("ffn_layernorm", "ffn_norm"),
        ("q_norm", "q_layernorm"),
        ("k_norm", "k_layernorm"),
        ("o_proj", "out_proj"),
        ("mlp", "feed_forward"),
        ("moe", "feed_forward"),
        ("router", "gate"),
        ("gate_proj", "w1"),
        ("up_proj", "w3"),
        ("down_proj", "w2"),
    ],
];

/// The last norm's names.
const FINAL_NORMS: [&str; 5] = ["norm", "final_layernorm", "final_layer_norm", "ln_f", "embedding_norm"];

/// No module's name is longer; every part of one is looked up.
const MAX_LENGTH: usize = 1024;

/// Wrappers that are in no wanted name.
const WRAPPERS: [&str; 4] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"];

/// All wanted names.
pub(super) struct Names {
    bare: HashMap<String, usize>,
    /// Names without a module that exporters leave out, since its own code does not call what is in it; none where several are the same.
    short: HashMap<String, Option<usize>>,
}

impl Names {
    pub(super) fn new(wanted: &Wanted) -> Self {
        let bare = |name: &str| name.strip_prefix(&wanted.base).unwrap_or(name).to_string();
        let mut short = HashMap::new();
        for (i, tensor) in wanted.tensors.iter().enumerate() {
            let name = bare(&tensor.name);
            let mut parts: Vec<&str> = name.split('.').collect();
            // A kernel, or a module in a module of a layer.
            let left_out = if tensor.shape.len() == 3 { 2 } else { 3 };
            if parts.len() >= 5 {
                parts.remove(parts.len() - left_out);
                short.entry(parts.join(".")).and_modify(|found| *found = None).or_insert(Some(i));
            }
        }
        Self { bare: wanted.tensors.iter().enumerate().map(|(i, t)| (bare(&t.name), i)).collect(), short }
    }

    /// What a full name, with `weight` or `bias`, is.
    pub(super) fn find(&self, name: &str) -> Option<Match> {
        if name.len() > MAX_LENGTH {
            return None;
        }
        let spellings = spellings(name);
        let found = spellings.iter().find_map(|name| self.exact(name).map(Match::Whole).or_else(|| self.fused(name)));
        found.or_else(|| ending(&spellings[0], |name| self.short.get(name).copied().flatten()).map(Match::Whole))
    }

    /// The longest wanted name that this one ends in. What stands before it may not be one of several (a layer, say).
    fn exact(&self, name: &[String]) -> Option<usize> {
        ending(name, |name| self.bare.get(name).copied())
    }

    fn fused(&self, name: &[String]) -> Option<Match> {
        let place = name.len().checked_sub(2)?;
        let with = |module: &str| {
            let mut name = name.to_vec();
            name[place] = module.to_string();
            self.exact(&name)
        };
        FUSED.iter().find_map(|(whole, parts)| {
            if name[place] == *whole {
                return parts.iter().map(|part| with(part)).collect::<Option<_>>().map(Match::Several);
            }
            let part = parts.iter().position(|part| name[place] == *part)?;
            Some(Match::PartOf { wanted: with(whole)?, part, parts: parts.len() })
        })
    }
}

/// What the longest known end of a name is.
fn ending(name: &[String], find: impl Fn(&str) -> Option<usize>) -> Option<usize> {
    (0..name.len()).find_map(|start| {
        let index = find(&name[start..].join("."))?;
        let wraps = name[..start].iter().all(|part| part.parse::<usize>().is_err());
        wraps.then_some(index)
    })
}

/// A name's parts, as it is and as PyTorch would have called it had GenAI's builder not written it.
fn spellings(name: &str) -> Vec<Vec<String>> {
    let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    let own = |parts: &[&str]| parts.iter().map(|part| (*part).to_string()).collect::<Vec<_>>();
    let mut all = vec![own(&parts)];
    let mut genai: Vec<&str> = Vec::new();
    for part in &parts {
        match (*part, genai.last()) {
            ("MatMul" | "Add", Some(_)) | ("layernorm", Some(&("q_norm" | "k_norm"))) => {}
            ("attn", _) => genai.push("self_attn"),
            _ => genai.push(part),
        }
    }
    all.push(own(&genai));
    if let [list @ .., "experts", kind, "bias"] = &genai[..] {
        // All experts' biases together are a parameter of their own.
        let name = format!("{kind}_bias");
        let list: Vec<&str> = list.iter().map(|part| if *part == "moe" { "mlp" } else { *part }).collect();
        all.push(own(&[&list[..], &["experts", name.as_str()]].concat()));
    }
    for dialect in DIALECTS {
        let parts: Vec<&str> =
            genai.iter().map(|part| dialect.iter().find(|(genai, _)| genai == part).map_or(*part, |(_, own)| *own)).collect();
        if parts != genai {
            all.push(own(&parts));
        }
    }
    if let Some(place) = genai.iter().position(|part| *part == "final_norm_layernorm") {
        let kind = genai[place + 1..].to_vec();
        all.extend(FINAL_NORMS.iter().map(|norm| own(&[&[*norm], &kind[..]].concat())));
    }
    if let Some(place) = genai.iter().position(|part| *part == "o_proj") {
        genai[place] = "dense";
        all.push(own(&genai));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::WantedTensor;

    fn names(base: &str, list: &[&str]) -> Names {
        let tensor =
            |name: &&str| WantedTensor { name: (*name).into(), shape: vec![], inputs_first: false, adds: 0.0, decays: false };
        Names::new(&Wanted { tensors: list.iter().map(tensor).collect(), base: base.into(), ..Wanted::default() })
    }

    #[test]
    fn a_name_behind_wrappers_is_the_wanted_one_but_never_one_of_another_layer() {
        let names = names("model.", &["model.norm.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"]);
        let find = |name: &str| names.find(name);
        assert_eq!(find("model.norm.weight"), Some(Match::Whole(0)));
        assert_eq!(find("lm._orig_mod.model.norm.weight"), Some(Match::Whole(0)));
        assert_eq!(find("norm.weight"), Some(Match::Whole(0)));
        assert_eq!(find("x.layers.0.mlp.up_proj.weight"), Some(Match::Whole(1)));
        assert_eq!(find("layers.1.mlp.up_proj.weight"), None);
        assert_eq!(find("layers.0.norm.weight"), None);
        assert_eq!(find("model.q_norm.weight"), None);
        assert_eq!(find("norm.bias"), None);
        assert_eq!(find("model.layers.2.final_norm_layernorm.weight"), Some(Match::Whole(0)));
    }

    #[test]
    fn joined_and_split_projections_are_known_by_their_parts() {
        let attention = ["q_proj", "k_proj", "v_proj"].map(|p| format!("model.layers.0.self_attn.{p}.weight"));
        let separate = names("model.", &attention.each_ref().map(String::as_str));
        assert_eq!(separate.find("model.layers.0.attn.qkv_proj.MatMul.weight"), Some(Match::Several(vec![0, 1, 2])));
        assert_eq!(separate.find("model.layers.0.attn.k_proj.MatMul.weight"), Some(Match::Whole(1)));
        let joined = names("model.", &["model.layers.0.mlp.gate_up_proj.weight", "model.layers.0.self_attn.dense.weight"]);
        let part = Match::PartOf { wanted: 0, part: 1, parts: 2 };
        assert_eq!(joined.find("model.layers.0.mlp.up_proj.MatMul.weight"), Some(part));
        assert_eq!(joined.find("model.layers.0.attn.o_proj.MatMul.weight"), Some(Match::Whole(1)));
    }
}
