//! The files of the tokenizer, made again from metadata: `tokenizer.json` as the `tokenizers` library reads it,
//! `tokenizer_config.json` with the named tokens and the chat template, `generation_config.json` with the tokens that
//! end a text.

mod byte_level;
mod sentencepiece;
mod split;
mod vocabulary;

use super::super::{CheckpointError, Companion};
use super::container::Container;
use super::family::Family;
use serde_json::{Value, json};
pub(in crate::checkpoint) use split::QWEN_2 as QWEN_2_SPLIT;
pub(crate) use split::split_name;
use vocabulary::{Kind, Vocabulary};

/// What a file says of text.
pub(super) struct Text {
    pub(super) companions: Vec<Companion>,
    pub(super) generation_config: Value,
    /// What a user should know of it.
    pub(super) warning: Option<String>,
}

const MODEL_KEY: &str = "tokenizer.ggml.model";

/// Tokens that end a turn in the templates of known families. The converter writes one end of text, and a model that
/// has another for the end of a turn would go on talking.
const TURN_ENDS: [&str; 5] = ["<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"];

/// A named token (`bos`, `eos`, `unknown`, `padding`, `eot`, `eom`); SentencePiece models have some without saying so.
pub(super) fn token_id(container: &Container<'_>, name: &str) -> Result<Option<u32>, CheckpointError> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let sentencepiece = || container.text(MODEL_KEY).ok().flatten() == Some("llama");
    let default = match name {
        "unknown" => Some(0),
        "bos" => Some(1),
        "eos" => Some(2),
        _ => None,
    };
    match container.size(&key)? {
        // What llama.cpp writes for none.
        Some(id) if id == u32::MAX as usize => Ok(None),
        Some(id) => u32::try_from(id).map(Some).map_err(|_| container.wrong(&key, &format!("is {id}, which is no token"))),
        None => Ok(default.filter(|_| sentencepiece())),
    }
}

/// Makes the files.
pub(super) fn read(container: &Container<'_>, family: &Family) -> Result<Text, CheckpointError> {
    let model = container.text(MODEL_KEY)?.unwrap_or("no_vocab");
    let fail = |why: String| CheckpointError::GgufTokenizer { file: container.file.into(), why };
    if matches!(model, "no_vocab" | "none") {
        let generation_config = generation(container, None)?;
        let warning = format!("{} has no tokenizer; a package of it reads and writes token ids alone", container.file);
        let companions = vec![file("generation_config.json", &generation_config)];
        return Ok(Text { companions, generation_config, warning: Some(warning) });
    }
    let vocabulary = Vocabulary::read(container)?;
    let (tokenizer, adds_bos, warning) = match model {
        "gpt2" => byte_level::tokenizer(container, &vocabulary)?,
        "llama" | "gemma4" => (sentencepiece::tokenizer(container, &vocabulary, family)?, true, None),
        other => return Err(fail(format!("{MODEL_KEY} {other:?} is not supported (supported: gpt2, llama, gemma4)"))),
    };
    let flag =
        |name: &str, default| Ok::<_, CheckpointError>(container.flag(&format!("tokenizer.ggml.{name}"))?.unwrap_or(default));
    let adds = Adds { bos: flag("add_bos_token", adds_bos)?, eos: flag("add_eos_token", false)? };
    let mut tokenizer = tokenizer;
    tokenizer["post_processor"] = adds.post_processor(container, &vocabulary)?;
    let config = config(container, &vocabulary, &adds)?;
    let generation_config = generation(container, Some(&vocabulary))?;
    let companions = vec![
        file("tokenizer.json", &tokenizer),
        file("tokenizer_config.json", &config),
        file("generation_config.json", &generation_config),
    ];
    Ok(Text { companions, generation_config, warning })
}

fn file(name: &str, value: &Value) -> Companion {
    Companion { name: name.into(), bytes: value.to_string().into_bytes() }
}

/// Whether a text gets a token before it and one after.
struct Adds {
    bos: bool,
    eos: bool,
}

impl Adds {
    /// What puts them there.
    fn post_processor(&self, container: &Container<'_>, vocabulary: &Vocabulary<'_>) -> Result<Value, CheckpointError> {
        let token = |name: &str, wanted: bool| Ok::<_, CheckpointError>(vocabulary.named(container, name)?.filter(|_| wanted));
        let (bos, eos) = (token("bos", self.bos)?, token("eos", self.eos)?);
        Ok(super::super::tokenizer::config::around(bos.as_ref(), eos.as_ref()))
    }
}

/// `tokenizer_config.json`.
fn config(container: &Container<'_>, vocabulary: &Vocabulary<'_>, adds: &Adds) -> Result<Value, CheckpointError> {
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": adds.bos,
        "add_eos_token": adds.eos,
        "clean_up_tokenization_spaces": false,
    });
    for (name, key) in [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")] {
        if let Some((_, text)) = vocabulary.named(container, name)? {
            config[key] = json!(text);
        }
    }
    const TEMPLATE: &str = "tokenizer.chat_template";
    let default = container.text(TEMPLATE)?;
    let mut named = Vec::new();
    for key in container.keys_from("tokenizer.chat_template.") {
        if let Some(template) = container.text(key)? {
            named.push(json!({"name": key["tokenizer.chat_template.".len()..], "template": template}));
        }
    }
    if !named.is_empty() {
        named.splice(0..0, default.map(|template| json!({"name": "default", "template": template})));
        config["chat_template"] = json!(named);
    } else if let Some(template) = default {
        config["chat_template"] = json!(template);
    }
    Ok(config)
}

/// `generation_config.json`.
fn generation(container: &Container<'_>, vocabulary: Option<&Vocabulary<'_>>) -> Result<Value, CheckpointError> {
    let mut ends = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ends.extend(token_id(container, name)?);
    }
    let template = container.text("tokenizer.chat_template")?.unwrap_or_default();
    if let Some(vocabulary) = vocabulary {
        let control = |text: &str| vocabulary.find(text).filter(|(_, kind)| matches!(kind, Kind::Control | Kind::UserDefined));
        let used = TURN_ENDS.iter().filter(|text| template.contains(**text));
        ends.extend(used.filter_map(|text| Some(control(text)?.0)));
    }
    let mut seen = std::collections::BTreeSet::new();
    ends.retain(|id| seen.insert(*id));
    let eos = match ends.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    Ok(json!({"bos_token_id": token_id(container, "bos")?, "eos_token_id": eos, "pad_token_id": token_id(container, "padding")?}))
}
