//! [`Engine`]: a package on the browser's GPU.

use crate::boundary::{EngineFacts, EngineOptions, EngineRequest};
use crate::chat::conversation;
use crate::error::Thrown;
use crate::profile::profile;
use crate::request::{Wanted, completion};
use crate::source::{JsSource, LastError, Source};
use crate::values::{number, numbers, object};
use haikuq_runtime::decoder::{
    CachePrecision, Decoder, DecoderOptions, LoadProgress, MAX_BATCH, Measure, MemoryUse, require_supported,
};
use haikuq_runtime::device::{Gpu, GpuOptions, offer_adapter};
use haikuq_runtime::generate::{Constraint, Conversation, ConversationPool, Request, TokenEvent, generate};
use haikuq_runtime::kernels::candidate::Numerics;
use haikuq_runtime::kernels::measured::Measured;
use haikuq_runtime::package::Package;
use haikuq_runtime::text::{GenerationDefaults, Special, Tokenizer};
use js_sys::{Array, Date, Float32Array, Function, Uint8Array, Uint32Array};
use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;

/// Conversations whose keys and values stay on the GPU between calls.
const KEPT_CONVERSATIONS: usize = 2;

/// Tokens of a prompt that are computed before a page can end it: its reader may not want to wait for more.
const PREFILL_CHUNK: usize = 256;

/// Rows of logits that [`Engine::score`] hands over at once take at most this many bytes.
const MAX_BLOCK_BYTES: usize = 8 << 20;

/// A package on the browser's GPU; see `web/src/engine/engine.ts`.
#[wasm_bindgen]
pub struct Engine {
    inner: Rc<Inner>,
}

struct Inner {
    device: Device,
    package: Package,
    tokenizer: Tokenizer,
    defaults: GenerationDefaults,
    max_context: usize,
    numerics: Numerics,
    memory: Cell<MemoryUse>,
    /// Times to keep, if the load has measured any.
    kernel_times: Option<String>,
    /// Absent while a generation or a score runs.
    busy: RefCell<Option<Working>>,
}

/// What one generation at a time may use.
struct Working {
    decoder: Decoder,
    pool: ConversationPool,
}

/// A device that is destroyed when nobody needs it any more, also by a load that fails: the browser would free its
/// memory only when it collects garbage.
struct Device(Arc<Gpu>);

impl Drop for Device {
    fn drop(&mut self) {
        self.0.device.destroy();
    }
}

#[wasm_bindgen]
impl Engine {
    /// Opens a device and loads the package that `source` has onto it.
    pub async fn load(source: Source, options: EngineOptions, on_progress: Function) -> Result<Engine, JsValue> {
        let last_error = LastError::default();
        let source = JsSource { source, last_error: last_error.clone() };
        match load(source, &options, &on_progress).await {
            Ok(inner) => Ok(Self { inner: Rc::new(inner) }),
            // What the source threw says more than what became of it.
            Err(error) => Err(last_error.take().unwrap_or_else(|| error.into())),
        }
    }

    /// `EngineFacts`.
    pub fn facts(&self) -> JsValue {
        let inner = &self.inner;
        let (manifest, capabilities) = (inner.package.manifest(), &inner.device.0.profile);
        let sizes = [capabilities.subgroup_min_size, capabilities.subgroup_max_size];
        let parameters = manifest.tensors.iter().map(|t| t.shape.iter().map(|n| *n as u64).product::<u64>()).sum();
        EngineFacts {
            version: env!("CARGO_PKG_VERSION").into(),
            recipe: manifest.provenance.recipe.as_str().into(),
            bitsPerWeight: manifest.bits_per_weight().into(),
            parameters: number(parameters),
            weightBytes: number(manifest.weight_bytes()),
            vocabSize: (manifest.spec.vocab_size as u32).into(),
            contextSize: (inner.max_context as u32).into(),
            maxBatch: (MAX_BATCH as u32).into(),
            hasChatTemplate: inner.tokenizer.chat_template().is_some().into(),
            numerics: if inner.numerics == Numerics::Exact { "exact" } else { "fast" }.into(),
            eosTokenIds: numbers(inner.defaults.stop_tokens(&manifest.spec, Some(&inner.tokenizer))),
            f16: capabilities.f16.into(),
            subgroups: if capabilities.subgroups { numbers(sizes) } else { JsValue::NULL },
        }
        .into()
    }

    /// Times of kernels to keep, if the load has measured any.
    #[wasm_bindgen(js_name = kernelTimes)]
    pub fn kernel_times(&self) -> Option<String> {
        self.inner.kernel_times.clone()
    }

    /// Bytes of GPU memory, and of the WebAssembly heap.
    pub fn memory(&self) -> JsValue {
        let memory = self.inner.memory.get();
        let pages = core::arch::wasm32::memory_size(0) as u64;
        object([
            ("weights", number(memory.weights)),
            ("cache", number(memory.cache)),
            ("scratch", number(memory.scratch)),
            ("wasm", number(pages << 16)),
        ])
    }

    /// Token ids of a text as the start of a sequence.
    pub fn encode(&self, text: &str, control_tokens: bool) -> Result<Vec<u32>, JsValue> {
        let special = if control_tokens { Special::Recognize } else { Special::Plain };
        Ok(self.inner.tokenizer.encode(text, special).map_err(Thrown::from)?)
    }

    /// What each token writes: `{ bytes, ends }`.
    #[wasm_bindgen(js_name = tokenBytes)]
    pub fn token_bytes(&self) -> Result<JsValue, JsValue> {
        let all = self.inner.tokenizer.token_bytes().map_err(Thrown::from)?;
        let bytes = Uint8Array::from(all.bytes.as_slice());
        Ok(object([("bytes", bytes.into()), ("ends", Uint32Array::from(all.ends.as_slice()).into())]))
    }

    /// Token ids of a text in the middle of a text.
    #[wasm_bindgen(js_name = encodeBare)]
    pub fn encode_bare(&self, text: &str) -> Result<Vec<u32>, JsValue> {
        Ok(self.inner.tokenizer.encode_bare(text, Special::Plain).map_err(Thrown::from)?)
    }

    /// Text of token ids, control tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, JsValue> {
        Ok(self.inner.tokenizer.decode(ids, true).map_err(Thrown::from)?)
    }

    /// Token ids of a conversation, ready for the assistant's answer: `EngineChat` as JSON. Templates that write the date get
    /// today's.
    #[wasm_bindgen(js_name = encodeChat)]
    pub fn encode_chat(&self, chat: &str) -> Result<Vec<u32>, JsValue> {
        let now = Date::new_0();
        let local_seconds = now.get_time() / 1e3 - now.get_timezone_offset() * 60.0;
        let (messages, options) = conversation(chat, &self.inner.tokenizer, local_seconds as i64)?;
        self.inner.tokenizer.refuse_dropped_tools(&messages, &options).map_err(Thrown::from)?;
        Ok(self.inner.tokenizer.encode_chat_with(&messages, &options).map_err(Thrown::from)?)
    }

    /// Writes a text for each request.
    pub async fn generate(&self, requests: Vec<EngineRequest>, on_token: Function) -> Result<Array, JsValue> {
        let inner = self.inner.clone();
        let ends = inner.defaults.stop_tokens(&inner.package.manifest().spec, Some(&inner.tokenizer));
        let wanted: Result<Vec<_>, _> = requests.iter().map(|r| Wanted::new(r, &inner.defaults, &ends)).collect();
        let mut wanted = wanted?;
        let mut working = inner.take()?;
        let result = run(&mut working, &inner.tokenizer, &mut wanted, &on_token).await;
        inner.put(working);
        Ok(result?)
    }

    /// Logits after each token of `ids`, handed over in blocks of whole rows.
    pub async fn score(&self, ids: Vec<u32>, on_rows: Function) -> Result<(), JsValue> {
        let inner = self.inner.clone();
        let mut working = inner.take()?;
        let result = score(&mut working.decoder, &ids, &on_rows).await;
        inner.put(working);
        result
    }

    /// Where the time of a step of prefill goes, and of one of decode after it: `EngineProfile`.
    pub async fn profile(&self, prompt_tokens: u32) -> Result<JsValue, JsValue> {
        let inner = self.inner.clone();
        let mut working = inner.take()?;
        let result = profile(&mut working.decoder, prompt_tokens as usize).await;
        inner.put(working);
        Ok(result?)
    }

    /// Loses the device on purpose.
    #[wasm_bindgen(js_name = loseDevice)]
    pub fn lose_device(&self) {
        self.inner.device.0.device.destroy();
    }
}

impl Inner {
    fn take(&self) -> Result<Working, Thrown> {
        let busy = || Thrown::new("internal", "one generation at a time: the engine is at work");
        self.busy.borrow_mut().take().ok_or_else(busy)
    }

    fn put(&self, working: Working) {
        self.memory.set(working.decoder.memory());
        self.busy.replace(Some(working));
    }
}

async fn load(source: JsSource, options: &EngineOptions, on_progress: &Function) -> Result<Inner, Thrown> {
    let mut gpu_options = GpuOptions::default();
    gpu_options.without_f16 = options.without_f16().unwrap_or(false);
    gpu_options.without_subgroups = options.without_subgroups().unwrap_or(false);
    gpu_options.default_limits = options.default_limits().unwrap_or(false);
    gpu_options.low_power = options.power_preference().as_deref() == Some("low-power");
    gpu_options.high_performance = options.power_preference().as_deref() == Some("high-performance");
    let cache = match options.kv_cache().as_deref() {
        None | Some("auto") => CachePrecision::Auto,
        Some("f16") => CachePrecision::F16,
        Some("f32") => CachePrecision::F32,
        Some(other) => {
            return Err(Thrown::new("invalid-argument", format!("kvCache is {other:?}, expected auto, f16 or f32")));
        }
    };
    let exact = match options.numerics().as_deref() {
        None | Some("auto" | "fast") => false,
        Some("exact") => true,
        Some(other) => {
            return Err(Thrown::new("invalid-argument", format!("numerics is {other:?}, expected auto, exact or fast")));
        }
    };
    let measure = match options.kernels().as_deref() {
        None | Some("auto") => Measure::Hardware,
        Some("table") => Measure::Never,
        Some(other) => return Err(Thrown::new("invalid-argument", format!("kernels is {other:?}, expected auto or table"))),
    };
    let max_context = options.context_size().map(|n| n as usize);
    let package = Package::open(source).await?;
    require_supported(&package.manifest().spec)?;
    if let Some(adapter) = options.adapter() {
        offer_adapter(&adapter);
    }
    let device = Device(Arc::new(Gpu::open(&gpu_options).await?));
    let (tokenizer, defaults) = (package.tokenizer().await?, package.generation_defaults().await?);
    let mut progress = |p: LoadProgress| {
        // A progress display that throws is no reason to stop loading.
        let told = [number(p.bytes), number(p.total_bytes), number(p.kernels as u64), number(p.total_kernels as u64)];
        let _ = on_progress.apply(&JsValue::NULL, &told.iter().collect());
    };
    let kept = options.kernel_times().unwrap_or_default();
    let measured = Measured::in_list(&kept, &device.0.key());
    let mut decoder_options = DecoderOptions::default();
    decoder_options.cache = cache;
    decoder_options.max_context = max_context;
    decoder_options.prefill_chunk = PREFILL_CHUNK;
    decoder_options.exact = exact;
    decoder_options.measured = measured;
    decoder_options.measure = measure;
    let pins = options.pins().unwrap_or_default();
    for (operation, kernel) in pins.split(',').filter_map(|pin| pin.split_once('=')) {
        decoder_options.pins.insert(operation.into(), kernel.into());
    }
    let decoder = Decoder::load(device.0.clone(), &package, &decoder_options, &mut progress).await?;
    let (before, after) = (&decoder_options.measured, decoder.measured());
    let news = !after.entries.is_empty() && before.as_ref() != Some(after);
    Ok(Inner {
        device,
        package,
        tokenizer,
        defaults,
        max_context: decoder.max_context(),
        numerics: decoder.numerics(),
        memory: Cell::new(decoder.memory()),
        kernel_times: news.then(|| after.added_to(&kept)),
        busy: RefCell::new(Some(Working { decoder, pool: ConversationPool::new(KEPT_CONVERSATIONS) })),
    })
}

async fn run(working: &mut Working, tokenizer: &Tokenizer, wanted: &mut [Wanted], on_token: &Function) -> Result<Array, Thrown> {
    let Working { decoder, pool } = working;
    let mut conversations: Vec<Conversation> = Vec::with_capacity(wanted.len());
    for w in &*wanted {
        match pool.take(&w.prompt, decoder) {
            Ok(conversation) => conversations.push(conversation),
            Err(error) => {
                conversations.into_iter().for_each(|c| pool.put(c, decoder));
                return Err(error.into());
            }
        }
    }
    let mut requests: Vec<_> = conversations
        .iter_mut()
        .zip(wanted)
        .map(|(conversation, w)| {
            let mut request = Request::new(conversation, &w.prompt, &w.options);
            request.written = &w.written;
            request.constraint = w.constraint.as_mut().map(|constraint| constraint as &mut dyn Constraint);
            request
        })
        .collect();
    let mut on_event = |event: TokenEvent<'_>| {
        let id = event.id.map_or(JsValue::UNDEFINED, JsValue::from);
        let go_on = on_token.call3(&JsValue::NULL, &(event.index as u32).into(), &id, &event.text.into());
        // A callback that throws ends the text, as one that returns false.
        if go_on.is_ok_and(|v| v != false) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let result = generate(decoder, tokenizer, &mut requests, &mut on_event).await;
    conversations.into_iter().for_each(|c| pool.put(c, decoder));
    Ok(result?.iter().map(completion).collect())
}

async fn score(decoder: &mut Decoder, ids: &[u32], on_rows: &Function) -> Result<(), JsValue> {
    let vocab = decoder.spec().vocab_size;
    let (mut block, mut first, mut thrown) = (Vec::new(), 0, None);
    let mut hand_over = |block: &mut Vec<f32>| {
        if !block.is_empty() && thrown.is_none() {
            let rows = Float32Array::from(block.as_slice());
            thrown = on_rows.call2(&JsValue::NULL, &(first as u32).into(), &rows).err();
            first += block.len() / vocab;
        }
        block.clear();
    };
    let mut on_row = |_: usize, row: &[f32]| {
        block.extend_from_slice(row);
        if (block.len() + vocab) * 4 > MAX_BLOCK_BYTES {
            hand_over(&mut block);
        }
    };
    decoder.score(ids, &mut on_row).await.map_err(Thrown::from)?;
    hand_over(&mut block);
    match thrown {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
