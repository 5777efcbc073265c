//! GGUF files. The first byte of an input says whether zeros follow the rest, where the weights would lie.

#![cfg_attr(fuzzing, no_main)]

use haikuq::architecture::Decoder;
use haikuq::checkpoint::Checkpoint;
use haikuq::tokenizer::Findings;
use haikuq_fuzz::fixtures::{files, read, write};
use haikuq_fuzz::fuzz_target;
use haikuq_fuzz::mutate::Mutator;
use haikuq_fuzz::target::{Outcome, Target, folder};
use std::path::PathBuf;
use std::sync::LazyLock;

/// Bytes of a file with zeros after its header: more than any fixture has.
const LENGTH: u64 = 512 << 10;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| folder().join("m.gguf"));

/// A file's parts, each of which can be changed with the lengths around it right.
struct Parts {
    version: u32,
    /// Key, type and bytes of the value.
    values: Vec<(Vec<u8>, u32, Vec<u8>)>,
    /// Name, dimensions, format, offset.
    tensors: Vec<(Vec<u8>, Vec<u64>, u32, u64)>,
}

/// Reads what was written by [`Parts::write`]; for seeds and what was made of them.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.u64()?;
        self.take(length)
    }

    fn skip(&mut self, kind: u32, depth: usize) -> Option<()> {
        match kind {
            0 | 1 | 7 => drop(self.take(1)?),
            2 | 3 => drop(self.take(2)?),
            4..=6 => drop(self.take(4)?),
            8 => drop(self.text()?),
            9 if depth < 4 => {
                let (kind, count) = (self.u32()?, self.u64()?);
                for _ in 0..count {
                    self.skip(kind, depth + 1)?;
                }
            }
            10..=12 => drop(self.take(8)?),
            _ => return None,
        }
        Some(())
    }
}

impl Parts {
    fn read(file: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(file);
        cursor.take(4).filter(|magic| *magic == b"GGUF")?;
        let (version, tensors, values) = (cursor.u32()?, cursor.u64()?, cursor.u64()?);
        let mut parts = Self { version, values: Vec::new(), tensors: Vec::new() };
        for _ in 0..values {
            let (key, kind) = (cursor.text()?.to_vec(), cursor.u32()?);
            let before = cursor.0;
            cursor.skip(kind, 0)?;
            parts.values.push((key, kind, before[..before.len() - cursor.0.len()].to_vec()));
        }
        for _ in 0..tensors {
            let (name, dimensions) = (cursor.text()?.to_vec(), cursor.u32()?);
            let shape = (0..dimensions.min(16)).map(|_| cursor.u64()).collect::<Option<_>>()?;
            parts.tensors.push((name, shape, cursor.u32()?, cursor.u64()?));
        }
        Some(parts)
    }

    fn write(&self) -> Vec<u8> {
        let text = |bytes: &mut Vec<u8>, text: &[u8]| {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text);
        };
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.values.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.values {
            text(&mut bytes, key);
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for (name, shape, kind, offset) in &self.tensors {
            text(&mut bytes, name);
            bytes.extend((shape.len() as u32).to_le_bytes());
            shape.iter().for_each(|d| bytes.extend(d.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes
    }

    fn mutate(&mut self, mutator: &mut Mutator<'_>) {
        let values = self.values.len();
        let of_values = values > 0 && (self.tensors.is_empty() || !mutator.random.one_in(3));
        if of_values {
            let (at, other) = (mutator.random.below(values), mutator.random.below(values));
            match mutator.random.below(8) {
                0 => drop(self.values.remove(at)),
                1 => self.values[at].0 = mutator.random.choose(mutator.dictionary).as_bytes().to_vec(),
                2 => (self.values[at].1, self.values[at].2) = (self.values[other].1, self.values[other].2.clone()),
                3 => mutator.bytes(&mut self.values[at].2),
                4 => {
                    let value = *mutator.random.choose(mutator.dictionary);
                    (self.values[at].1, self.values[at].2) =
                        (8, [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat());
                }
                5 if self.values[at].1 == 9 => self.list(at, mutator),
                _ => {
                    let kind = *mutator.random.choose(&[0u32, 1, 4, 5, 6, 7, 10, 11, 12]);
                    let width = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][kind as usize];
                    (self.values[at].1, self.values[at].2) = (kind, mutator.random.bound().to_le_bytes()[..width].to_vec());
                }
            }
            return;
        }
        let (at, count) = (mutator.random.below(self.tensors.len()), self.tensors.len());
        if count == 0 {
            return;
        }
        let other = self.tensors[mutator.random.below(count)].clone();
        let tensor = &mut self.tensors[at];
        match mutator.random.below(8) {
            0 => drop(self.tensors.remove(at)),
            1 => self.tensors.push(other),
            2 => tensor.0 = other.0,
            3 => tensor.1 = other.1,
            4 => tensor.2 = mutator.random.below(41) as u32,
            5 => tensor.3 = mutator.random.bound() & !31,
            6 => tensor.1.push(mutator.random.bound()),
            _ => {
                if let Some(size) = tensor.1.first_mut() {
                    *size = mutator.random.bound();
                }
            }
        }
    }

    /// Makes a list shorter: of texts or numbers, whichever it has.
    fn list(&mut self, at: usize, mutator: &mut Mutator<'_>) {
        let mut cursor = Cursor(&self.values[at].2);
        let (Some(kind), Some(count)) = (cursor.u32(), cursor.u64()) else { return };
        let (keep, begin) = (mutator.random.below(count as usize + 1) as u64, cursor.0);
        for _ in 0..keep {
            if cursor.skip(kind, 1).is_none() {
                return;
            }
        }
        let items = &begin[..begin.len() - cursor.0.len()];
        self.values[at].2 = [&kind.to_le_bytes()[..], &keep.to_le_bytes(), items].concat();
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let all = files("tests/fixtures/gguf", ".gguf");
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for file in &all {
        let mut parts = Parts::read(&read(file)).expect("a fixture");
        // One layer is enough of each, and where the list of tokens is long, a part of it.
        for i in 0..parts.values.len() {
            if parts.values[i].0.ends_with(b"block_count") {
                parts.values[i].2 = 1u32.to_le_bytes().to_vec();
            }
        }
        let later = |name: &[u8]| name.starts_with(b"blk.") && !name.starts_with(b"blk.0.");
        seeds.push([vec![1], parts.write()].concat());
        parts.tensors.retain(|t| !later(&t.0));
        seeds.push([vec![1], parts.write()].concat());
        parts.values.retain(|v| !v.0.starts_with(b"tokenizer."));
        seeds.push([vec![1], parts.write()].concat());
    }
    seeds.sort_by_key(Vec::len);
    seeds.retain(|s| s.len() < 8 << 10);
    seeds
}

fn mutate(input: &mut Vec<u8>, mutator: &mut Mutator<'_>) {
    let kind = input.first().copied().unwrap_or(0);
    let mut rest = input.get(1..).unwrap_or_default().to_vec();
    match Parts::read(&rest).filter(|_| !mutator.random.one_in(4)) {
        Some(mut parts) => {
            (0..1 + mutator.random.below(3)).for_each(|_| parts.mutate(mutator));
            rest = parts.write();
        }
        None => mutator.bytes(&mut rest),
    }
    let kind = if mutator.random.one_in(32) { mutator.random.below(2) as u8 } else { kind };
    *input = [vec![kind], rest].concat();
    input.truncate(mutator.most_bytes);
}

fn run(input: &[u8]) -> Outcome {
    let (kind, file) = input.split_first().unwrap_or((&0, &[]));
    write(&FILE, file, if *kind == 0 { 0 } else { LENGTH });
    let checkpoint = Checkpoint::open(&*FILE).map_err(|e| e.to_string())?;
    let decoder = Decoder::from_checkpoint(checkpoint).map_err(|e| format!("opened, {e}"))?;
    let findings = Findings::of(decoder.checkpoint(), &decoder.spec).map_err(|e| format!("a decoder, {e}"))?;
    decoder.read("layers.0.mixer_norm.gain").map_err(|e| format!("a decoder, {e}"))?;
    decoder.read("layers.0.qkv").map_err(|e| format!("a decoder, {e}"))?;
    Ok(format!("a decoder, {} notes, {}", decoder.notes().len(), findings.text()))
}

fuzz_target!(Target {
    name: "gguf",
    seeds,
    dictionary: &[
        "GGUF",
        "general.architecture",
        "general.alignment",
        "general.type",
        "llama",
        "qwen2",
        "qwen3",
        "gemma",
        "gemma2",
        "gemma3",
        "phi2",
        "phi3",
        "gpt2",
        "gptneox",
        "olmo2",
        "smollm3",
        "granite",
        "stablelm",
        "llama.block_count",
        "llama.embedding_length",
        "llama.attention.head_count",
        "llama.attention.head_count_kv",
        "llama.attention.key_length",
        "llama.attention.value_length",
        "llama.feed_forward_length",
        "llama.context_length",
        "llama.rope.dimension_count",
        "llama.rope.freq_base",
        "llama.rope.scaling.type",
        "llama.rope.scaling.factor",
        "llama.rope.scaling.original_context_length",
        "llama.attention.layer_norm_rms_epsilon",
        "llama.attention.sliding_window",
        "llama.vocab_size",
        "yarn",
        "linear",
        "longrope",
        "tokenizer.ggml.model",
        "tokenizer.ggml.pre",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.scores",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.chat_template",
        "tokenizer.ggml.add_bos_token",
        "split.no",
        "split.count",
        "token_embd.weight",
        "output.weight",
        "rope_freqs.weight",
        "blk.0.attn_q.weight",
        "blk.0.attn_qkv.weight",
        "blk.4294967295.attn_q.weight",
        "blk.0.attn_q.bias",
    ],
    mutate,
    most_bytes: 16 << 10,
    run,
});
