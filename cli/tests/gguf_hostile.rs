//! Damaged and hostile GGUF files: each is refused with words of its own, without a panic and without a huge allocation.

mod support;

use haikuq::checkpoint::Checkpoint;
use std::path::{Path, PathBuf};
use support::assert_says;

/// A value of a key.
#[derive(Clone)]
enum Value {
    U32(u32),
    F32(f32),
    Text(&'static str),
    Texts(Vec<&'static str>),
    Numbers(Vec<i32>),
    /// A type's number and its bytes.
    Raw(u32, Vec<u8>),
}

/// A file in memory, to be damaged and written.
#[derive(Clone)]
struct File {
    version: u32,
    values: Vec<(String, Value)>,
    /// Name, innermost dimension first, number of the format, offset.
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: Vec<u8>,
    tensor_count: Option<u64>,
    value_count: Option<u64>,
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

impl File {
    /// A Llama of one layer, 32 wide, without a tokenizer.
    fn new() -> Self {
        let mut values: Vec<(String, Value)> = vec![("general.architecture".into(), Value::Text("llama"))];
        for (key, n) in [
            ("context_length", 64),
            ("embedding_length", 32),
            ("block_count", 1),
            ("feed_forward_length", 64),
            ("attention.head_count", 2),
        ] {
            values.push((format!("llama.{key}"), Value::U32(n)));
        }
        values.push(("llama.attention.layer_norm_rms_epsilon".into(), Value::F32(1e-5)));
        let mut this = Self { version: 3, values, tensors: vec![], data: vec![], tensor_count: None, value_count: None };
        for (name, dims) in [
            ("token_embd", vec![32, 8]),
            ("blk.0.attn_norm", vec![32]),
            ("blk.0.attn_q", vec![32, 32]),
            ("blk.0.attn_k", vec![32, 32]),
            ("blk.0.attn_v", vec![32, 32]),
            ("blk.0.attn_output", vec![32, 32]),
            ("blk.0.ffn_norm", vec![32]),
            ("blk.0.ffn_gate", vec![32, 64]),
            ("blk.0.ffn_up", vec![32, 64]),
            ("blk.0.ffn_down", vec![64, 32]),
            ("output_norm", vec![32]),
        ] {
            let offset = this.data.len() as u64;
            this.data.resize(this.data.len() + 4 * dims.iter().product::<u64>() as usize, 0);
            this.tensors.push((format!("{name}.weight"), dims, 0, offset));
        }
        this
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        match self.values.iter_mut().find(|(k, _)| k == key) {
            Some(entry) => entry.1 = value,
            None => self.values.push((key.into(), value)),
        }
        self
    }

    fn tensor(&mut self, name: &str) -> &mut (String, Vec<u64>, u32, u64) {
        self.tensors.iter_mut().find(|t| t.0 == name).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.value_count.unwrap_or(self.values.len() as u64).to_le_bytes());
        for (key, value) in &self.values {
            text(&mut bytes, key);
            let kind: u32 = match value {
                Value::U32(_) => 4,
                Value::F32(_) => 6,
                Value::Text(_) => 8,
                Value::Texts(_) | Value::Numbers(_) => 9,
                Value::Raw(kind, _) => *kind,
            };
            bytes.extend(kind.to_le_bytes());
            match value {
                Value::U32(n) => bytes.extend(n.to_le_bytes()),
                Value::F32(x) => bytes.extend(x.to_le_bytes()),
                Value::Text(t) => text(&mut bytes, t),
                Value::Texts(list) => {
                    bytes.extend(8u32.to_le_bytes());
                    bytes.extend((list.len() as u64).to_le_bytes());
                    list.iter().for_each(|t| text(&mut bytes, t));
                }
                Value::Numbers(list) => {
                    bytes.extend(5u32.to_le_bytes());
                    bytes.extend((list.len() as u64).to_le_bytes());
                    list.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
                }
                Value::Raw(_, raw) => bytes.extend(raw),
            }
        }
        for (name, dims, kind, offset) in &self.tensors {
            text(&mut bytes, name);
            bytes.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| bytes.extend(d.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }

    /// What opening it says.
    #[track_caller]
    fn refusal(&self) -> String {
        refusal(&self.bytes()).expect("a refusal")
    }
}

fn refusal(bytes: &[u8]) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path).err().map(|e| e.to_string())
}

fn path(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/fixtures/gguf").join(name)
}

#[test]
fn the_file_that_these_tests_damage_is_a_good_one() {
    assert_eq!(refusal(&File::new().bytes()), None);
    assert_eq!(refusal(&File { version: 2, ..File::new() }.bytes()), None);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = File::new().bytes();
    let header = bytes.len() - File::new().data.len();
    for end in (0..header + 40).chain([bytes.len() - 1]) {
        let said = refusal(&bytes[..end]).unwrap_or_else(|| panic!("{end} bytes are taken for a model"));
        assert_says(&said, &["truncated", &format!("the file has {end}")]);
    }
    // One with a tokenizer: every place of its lists.
    let bytes = std::fs::read(path("tokenizer-spm.gguf")).unwrap();
    for end in (0..bytes.len()).step_by(97) {
        assert!(refusal(&bytes[..end]).is_some(), "{end}");
    }
}

#[test]
fn other_files_and_other_versions_are_refused() {
    let mut bytes = File::new().bytes();
    bytes[..4].copy_from_slice(b"GGML");
    assert_says(
        &refusal(&bytes).unwrap(),
        &["m.gguf: not a GGUF file that can be read: at byte 0", "does not start with \"GGUF\""],
    );
    assert_says(&File { version: 1, ..File::new() }.refusal(), &["at byte 4: version 1 is not supported (2 and 3 are)"]);
    assert_says(&File { version: 4, ..File::new() }.refusal(), &["version 4 is not supported"]);
    assert_says(&File { version: 3u32.swap_bytes(), ..File::new() }.refusal(), &["it is big-endian"]);
}

#[test]
fn absurd_counts_and_lengths_allocate_nothing() {
    for count in [1 << 40, u64::MAX] {
        assert_says(&File { tensor_count: Some(count), ..File::new() }.refusal(), &["m.gguf"]);
        assert_says(&File { value_count: Some(count), ..File::new() }.refusal(), &["m.gguf"]);
        for kind in [0u32, 4, 7, 8, 9, 12] {
            let mut list = kind.to_le_bytes().to_vec();
            list.extend(count.to_le_bytes());
            let file = File::new().set("x", Value::Raw(9, list));
            assert_says(&file.refusal(), &["m.gguf"]);
        }
        assert_says(&File::new().set("x", Value::Raw(8, count.to_le_bytes().to_vec())).refusal(), &["truncated: a value needs"]);
    }
}

#[test]
fn values_of_no_type_and_lists_in_lists_are_refused() {
    assert_says(&File::new().set("x", Value::Raw(13, vec![])).refusal(), &["unknown type 13"]);
    assert_says(&File::new().set("x", Value::Raw(7, vec![2])).refusal(), &["a truth value is 2"]);
    let one_list = [9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()].concat();
    assert_says(&File::new().set("x", Value::Raw(9, one_list.repeat(1000))).refusal(), &["lists lie in lists more than 4 deep"]);
}

#[test]
fn a_key_or_a_tensor_that_is_there_twice_is_refused() {
    let mut file = File::new();
    file.values.push(file.values[3].clone());
    assert_says(&file.refusal(), &["the key llama.block_count is there twice"]);
    let mut file = File::new();
    let (dims, offset) = (vec![32], file.data.len() as u64);
    file.data.resize(file.data.len() + 128, 0);
    file.tensors.push(("output_norm.weight".into(), dims, 0, offset));
    assert_says(&file.refusal(), &["tensor output_norm.weight lies in both m.gguf and m.gguf"]);
}

#[test]
fn tensors_beyond_the_file_on_each_other_or_out_of_line_are_refused() {
    let with = |change: fn(&mut (String, Vec<u64>, u32, u64))| {
        let mut file = File::new();
        change(file.tensor("blk.0.attn_q.weight"));
        file.refusal()
    };
    assert_says(&with(|t| t.3 = 1 << 40), &["truncated: tensor blk.0.attn_q.weight needs 10995116"]);
    assert_says(&with(|t| t.3 = u64::MAX - 31), &["tensor blk.0.attn_q.weight", "beyond all bounds"]);
    assert_says(&with(|t| t.1 = vec![1 << 40, 1 << 40]), &["tensor blk.0.attn_q.weight", "beyond all bounds"]);
    assert_says(&with(|t| t.1 = vec![u64::MAX, 2]), &["a dimension is 0 or beyond all bounds"]);
    assert_says(&with(|t| t.1 = vec![32, 0]), &["a dimension is 0"]);
    assert_says(&with(|t| t.1 = vec![]), &["it has 0 dimensions, expected 1 to 4"]);
    assert_says(&with(|t| t.1 = vec![1; 5]), &["it has 5 dimensions"]);
    assert_says(&with(|t| t.3 += 4), &["its offset, 1156, is no multiple of the alignment, 32"]);
    assert_says(
        &with(|t| t.3 -= 32),
        &["blk.0.attn_q.weight starts at byte 1120", "inside tensor blk.0.attn_norm.weight", "1152"],
    );
    assert_says(&File::new().set("general.alignment", Value::U32(12)).refusal(), &["general.alignment is 12"]);
    assert_says(&File::new().set("general.alignment", Value::U32(0)).refusal(), &["general.alignment is 0"]);
}

#[test]
fn formats_that_cannot_be_read_are_refused_by_name() {
    for (number, name) in
        [(16, "IQ2_XXS"), (20, "IQ4_NL"), (23, "IQ4_XS"), (34, "TQ1_0"), (40, "NVFP4"), (28, "F64"), (99, "format 99")]
    {
        let mut file = File::new();
        file.tensor("blk.0.ffn_up.weight").2 = number;
        let said = file.refusal();
        assert_says(&said, &["tensor blk.0.ffn_up.weight is in ", name, "supported: F32, F16, BF16, Q8_0, Q4_0"]);
    }
    let mut file = File::new();
    file.tensor("blk.0.ffn_up.weight").2 = 12;
    assert_says(&file.refusal(), &["its rows of 32 numbers are not whole blocks of Q4_K"]);
}

#[test]
fn metadata_that_makes_no_model_is_refused_by_key() {
    let said = File::new().set("general.architecture", Value::Text("rwkv7")).refusal();
    assert_says(&said, &["general.architecture \"rwkv7\" is not supported (supported: llama, qwen2, qwen3, gemma,"]);
    let mut file = File::new();
    file.values.retain(|(key, _)| key != "llama.context_length");
    assert_says(&file.refusal(), &["llama.context_length is missing"]);
    assert_says(
        &File::new().set("llama.block_count", Value::Text("two")).refusal(),
        &["llama.block_count is \"two\", expected a whole"],
    );
    assert_says(&File::new().set("llama.attention.head_count", Value::U32(0)).refusal(), &["llama.attention.head_count is 0"]);
    let lists = File::new().set("llama.attention.head_count", Value::Numbers(vec![2, 4]));
    assert_says(
        &lists.refusal(),
        &["llama.attention.head_count is a list of 2, expected a whole number, the same for every layer"],
    );
    assert_says(&File::new().set("llama.block_count", Value::U32(u32::MAX)).refusal(), &["llama.block_count is 4294967295"]);
    let huge = File::new().set("llama.attention.key_length", Value::Raw(10, u64::MAX.to_le_bytes().to_vec()));
    assert_says(&huge.refusal(), &["llama.attention.key_length"]);
    let mut file = File::new();
    file.tensors.remove(0);
    assert_says(&file.refusal(), &["token_embd.weight is missing"]);
}

/// The file with a byte-level tokenizer of eight tokens.
fn with_tokenizer() -> File {
    File::new()
        .set("tokenizer.ggml.model", Value::Text("gpt2"))
        .set("tokenizer.ggml.pre", Value::Text("gpt-2"))
        .set("tokenizer.ggml.tokens", Value::Texts(vec!["a", "b", "c", "ab", "abc", "d", "e", "<end>"]))
        .set("tokenizer.ggml.token_type", Value::Numbers(vec![1, 1, 1, 1, 1, 1, 1, 3]))
        .set("tokenizer.ggml.merges", Value::Texts(vec!["a b", "ab c"]))
        .set("tokenizer.ggml.eos_token_id", Value::U32(7))
}

#[test]
fn a_tokenizer_that_cannot_be_rebuilt_is_refused() {
    assert_eq!(refusal(&with_tokenizer().bytes()), None);
    let said = with_tokenizer().set("tokenizer.ggml.pre", Value::Text("kimi-k2")).refusal();
    assert_says(&said, &["its tokenizer cannot be rebuilt: tokenizer.ggml.pre \"kimi-k2\" is not known (known: gpt-2,"]);
    let said = with_tokenizer().set("tokenizer.ggml.model", Value::Text("t5")).refusal();
    assert_says(&said, &["tokenizer.ggml.model \"t5\" is not supported (supported: gpt2, llama, gemma4)"]);
    let said = with_tokenizer().set("tokenizer.ggml.token_type", Value::Numbers(vec![1])).refusal();
    assert_says(&said, &["tokenizer.ggml.token_type has 1 entries, tokenizer.ggml.tokens 8"]);
    let said = with_tokenizer().set("tokenizer.ggml.merges", Value::Texts(vec!["a b", "b c"])).refusal();
    assert_says(&said, &["tokenizer.ggml.merges has an entry, 1, \"b c\", that is not two tokens that make one"]);
    let said = with_tokenizer().set("tokenizer.ggml.eos_token_id", Value::U32(8)).refusal();
    assert_says(&said, &["tokenizer.ggml.eos_token_id is 8, and there are 8 tokens"]);
    let said = with_tokenizer().set("tokenizer.ggml.model", Value::Text("llama")).refusal();
    assert_says(&said, &["tokenizer.ggml.scores is missing"]);
}

#[test]
fn a_way_to_cut_texts_that_is_not_said_is_assumed_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, with_tokenizer().set("tokenizer.ggml.pre", Value::Text("default")).bytes()).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_says(&checkpoint.warnings()[0], &["m.gguf does not say how text is cut", "GPT-2's way is assumed"]);
}

/// Splits the good file's tensors over two files.
fn pieces(folder: &Path) -> [PathBuf; 2] {
    [0, 1].map(|i| {
        let mut file = File::new();
        if i == 1 {
            file.values.clear();
        }
        let half = |n: usize| if i == 0 { n < 5 } else { n >= 5 };
        let mut n = 0;
        file.tensors.retain(|_| {
            n += 1;
            half(n - 1)
        });
        let file = file.set("split.no", Value::U32(i)).set("split.count", Value::U32(2));
        let path = folder.join(format!("m-0000{}-of-00002.gguf", i + 1));
        std::fs::write(&path, file.bytes()).unwrap();
        path
    })
}

#[test]
fn pieces_of_a_model_are_read_as_one_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = pieces(folder.path());
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.tensor_names().count(), 11);
    assert_eq!(checkpoint.source_files(), [first.clone(), second.clone()]);
    let said = Checkpoint::open(&second).unwrap_err().to_string();
    assert_says(&said, &["is a piece of a model: name the first one", "m-00001-of-00002.gguf", "llama-gguf-split --merge"]);
    std::fs::copy(&first, &second).unwrap();
    assert_says(&Checkpoint::open(&first).unwrap_err().to_string(), &["m-00002-of-00002.gguf says that it is piece 1 of 2"]);
    std::fs::remove_file(&second).unwrap();
    assert_says(&Checkpoint::open(&first).unwrap_err().to_string(), &["m-00002-of-00002.gguf is missing"]);
}
