//! The values that cross from JavaScript and back, each written down once: as Rust reads it, and as TypeScript sees it.
//!
//! `web/src/engine/boundary.ts` is made of this file; a test says that it is still the same. `UPDATE=1 cargo test -p haikuq-web`
//! writes it anew.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen::JsValue;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen::prelude::wasm_bindgen;

/// A Rust type of a getter as the rest of a line of TypeScript.
#[cfg(test)]
macro_rules! typescript {
    (Vec<u32>) => { ": Uint32Array" };
    (Option<Vec<u32>>) => { "?: Uint32Array" };
    (Option<Vec<String>>) => { "?: string[]" };
    (Option<String>) => { "?: string" };
    (Option<bool>) => { "?: boolean" };
    (Option<u32>) => { "?: number" };
    (Option<f32>) => { "?: number" };
    (Option<f64>) => { "?: number" };
    ($($as:literal)+) => { concat!($($as),+) };
}

/// An object that JavaScript makes: a getter for each field. A field may have a TypeScript type of its own.
macro_rules! taken {
    ($(#[doc = $doc:literal])* $name:ident: $text:ident { $($(#[doc = $about:literal])* $field:ident / $js:ident: [$($t:tt)+] $($as:literal)?,)* }) => {
        #[cfg(target_arch = "wasm32")]
        #[wasm_bindgen]
        extern "C" {
            $(#[doc = $doc])*
            #[wasm_bindgen(typescript_type = "object")]
            pub type $name;
            $(
                #[wasm_bindgen(method, getter, js_name = $js)]
                pub fn $field(this: &$name) -> $($t)+;
            )*
        }

        /// Its TypeScript.
        #[cfg(test)]
        const $text: &str = concat!(
            "/**", $($doc,)* " */\nexport interface ", stringify!($name), " {\n",
            $($("  /**", $about, " */\n",)* "  ", stringify!($js), taken!(@type [$($t)+] $($as)?), ";\n",)*
            "}\n"
        );
    };
    (@type [$($t:tt)+]) => { typescript!($($t)+) };
    (@type [$($t:tt)+] $as:literal) => { $as };
}

/// An object that JavaScript gets: a field for each of its own.
macro_rules! given {
    ($(#[doc = $doc:literal])* $name:ident: $text:ident { $($(#[doc = $about:literal])* $js:ident: $type:literal,)* }) => {
        $(#[doc = $doc])*
        #[cfg(target_arch = "wasm32")]
        #[expect(non_snake_case, reason = "fields are JavaScript's")]
        pub struct $name {
            $($(#[doc = $about])* pub $js: JsValue,)*
        }

        #[cfg(target_arch = "wasm32")]
        impl From<$name> for JsValue {
            fn from(value: $name) -> Self {
                crate::values::object([$((stringify!($js), value.$js),)*])
            }
        }

        /// Its TypeScript.
        #[cfg(test)]
        const $text: &str = concat!(
            "/**", $($doc,)* " */\nexport interface ", stringify!($name), " {\n",
            $($("  /**", $about, " */\n",)* "  ", stringify!($js), ": ", $type, ";\n",)*
            "}\n"
        );
    };
}

taken! {
    /// How to load a package.
    EngineOptions: ENGINE_OPTIONS {
        /// From which the device is requested; without one, or for another engine, an adapter is asked for.
        adapter / adapter: [Option<JsValue>] "?: GPUAdapter",
        power_preference / powerPreference: [Option<String>] "?: 'low-power' | 'high-performance'",
        context_size / contextSize: [Option<u32>],
        kv_cache / kvCache: [Option<String>] "?: 'auto' | 'f16' | 'f32'",
        numerics / numerics: [Option<String>] "?: 'auto' | 'exact' | 'fast'",
        /// `auto`: by times measured on this GPU, in this load where `kernelTimes` does not have them. `table`: never measured.
        kernels / kernels: [Option<String>] "?: 'auto' | 'table'",
        /// The result of `kernelTimes()` of an earlier engine.
        kernel_times / kernelTimes: [Option<String>],
        without_f16 / withoutF16: [Option<bool>],
        without_subgroups / withoutSubgroups: [Option<bool>],
        default_limits / defaultLimits: [Option<bool>],
        /// `OPERATION=KERNEL`, with commas between several.
        pins / pins: [Option<String>],
    }
}

taken! {
    /// One text to write.
    EngineRequest: ENGINE_REQUEST {
        prompt / prompt: [Vec<u32>],
        /// Tokens of the answer that were written before (by a device that is lost): the text goes on after them.
        written / written: [Option<Vec<u32>>],
        max_tokens / maxTokens: [Option<u32>],
        temperature / temperature: [Option<f32>],
        top_k / topK: [Option<u32>],
        top_p / topP: [Option<f32>],
        min_p / minP: [Option<f32>],
        repetition_penalty / repetitionPenalty: [Option<f32>],
        seed / seed: [Option<f64>],
        stop / stop: [Option<Vec<String>>],
        ignore_eos / ignoreEos: [Option<bool>],
        /// What the text may be.
        constraint / constraint: [Option<crate::constraint::JsConstraint>] "?: import('./grammar.js').EngineConstraint",
    }
}

given! {
    /// A finished text.
    EngineCompletion: ENGINE_COMPLETION {
        /// All of the answer, `written` included.
        ids: "Uint32Array",
        text: "string",
        finish: "'stop' | 'length' | 'context' | 'cancelled'",
        promptTokens: "number",
        reusedTokens: "number",
        completionTokens: "number",
        timeToFirstTokenMs: "number",
        decodeMs: "number",
    }
}

given! {
    /// A loaded package.
    EngineFacts: ENGINE_FACTS {
        version: "string",
        recipe: "string",
        bitsPerWeight: "number",
        parameters: "number",
        weightBytes: "number",
        vocabSize: "number",
        contextSize: "number",
        /// Texts that it writes together.
        maxBatch: "number",
        hasChatTemplate: "boolean",
        numerics: "'exact' | 'fast'",
        /// Tokens that end a text.
        eosTokenIds: "number[]",
        f16: "boolean",
        subgroups: "[number, number] | null",
    }
}

#[cfg(test)]
mod tests {
    use super::{ENGINE_COMPLETION, ENGINE_FACTS, ENGINE_OPTIONS, ENGINE_REQUEST};

    #[test]
    fn the_pages_types_are_those_of_this_crate() {
        let head = "// Made of web/wasm/src/boundary.rs: UPDATE=1 cargo test -p haikuq-web writes it anew.\n";
        let wanted = [head, ENGINE_OPTIONS, ENGINE_REQUEST, ENGINE_COMPLETION, ENGINE_FACTS].join("\n");
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../src/engine/boundary.ts");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &wanted).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), wanted, "UPDATE=1 cargo test -p haikuq-web");
    }
}
