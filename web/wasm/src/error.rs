//! Errors as JavaScript sees them: an `Error` with `code` (an `ErrorCode` of `web/src/errors.ts`) and `details`.

use crate::values::{number, object};
use haikuq_runtime::decoder::DecoderError;
use haikuq_runtime::device::GpuError;
use haikuq_runtime::generate::{ConstraintError, GenerateError};
use haikuq_runtime::package::PackageError;
use haikuq_runtime::sampling::SamplingError;
use haikuq_runtime::text::TextError;
use js_sys::Reflect;
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen::{JsError, JsValue};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    pub fn log(text: &str);
}

/// What a caller gets thrown.
pub struct Thrown {
    code: &'static str,
    message: String,
    details: JsValue,
}

impl Thrown {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: object([]) }
    }

    fn with(mut self, details: JsValue) -> Self {
        self.details = details;
        self
    }
}

impl From<Thrown> for JsValue {
    fn from(thrown: Thrown) -> Self {
        let error = Self::from(JsError::new(&thrown.message));
        let _ = Reflect::set(&error, &"code".into(), &thrown.code.into());
        let _ = Reflect::set(&error, &"details".into(), &thrown.details);
        error
    }
}

impl From<GpuError> for Thrown {
    fn from(error: GpuError) -> Self {
        let message = error.to_string();
        match error {
            GpuError::NoAdapter | GpuError::NoSuchAdapter { .. } => {
                Self::new("webgpu-unavailable", "the browser has no WebGPU adapter")
            }
            GpuError::Device { .. } => Self::new("unsupported-device", message),
            GpuError::OutOfMemory(_) => Self::new("out-of-memory", message),
            GpuError::Lost(_) => Self::new("device-lost", message),
            GpuError::Limit { needed, limit, available, .. } => Self::new("unsupported-device", message).with(object([
                ("needed", number(needed)),
                ("limit", limit.into()),
                ("available", number(available)),
            ])),
            _ => Self::new("internal", message),
        }
    }
}

impl From<PackageError> for Thrown {
    fn from(error: PackageError) -> Self {
        let message = error.to_string();
        match error {
            PackageError::Source(_) => Self::new("network", message),
            PackageError::Truncated { file, .. } | PackageError::TooLong { file, .. } | PackageError::Hash { file, .. } => {
                Self::new("integrity", message).with(object([("file", file.into())]))
            }
            _ => Self::new("invalid-package", message),
        }
    }
}

impl From<DecoderError> for Thrown {
    fn from(error: DecoderError) -> Self {
        let message = error.to_string();
        match error {
            DecoderError::Package(e) => e.into(),
            DecoderError::Gpu(e) => e.into(),
            DecoderError::Unsupported { field: "pins", .. } => Self::new("invalid-argument", message),
            DecoderError::Unsupported { .. } | DecoderError::NotFinite => Self::new("invalid-package", message),
            DecoderError::ContextOverflow { needed, limit } => Self::new("context-overflow", message)
                .with(object([("needed", number(needed as u64)), ("available", number(limit as u64))])),
            DecoderError::TooManySequences(_) | DecoderError::TokenOutOfRange { .. } | DecoderError::NoTokens => {
                Self::new("invalid-argument", message)
            }
            _ => Self::new("internal", message),
        }
    }
}

impl From<TextError> for Thrown {
    fn from(error: TextError) -> Self {
        let code = match error {
            TextError::Encode { .. } | TextError::Decode { .. } | TextError::Conversation { .. } | TextError::Refused { .. } => {
                "invalid-argument"
            }
            _ => "invalid-package",
        };
        Self::new(code, error.to_string())
    }
}

impl From<ConstraintError> for Thrown {
    fn from(error: ConstraintError) -> Self {
        Self::new("invalid-argument", error.to_string())
    }
}

impl From<SamplingError> for Thrown {
    fn from(error: SamplingError) -> Self {
        Self::new("invalid-argument", error.to_string())
    }
}

impl From<GenerateError> for Thrown {
    fn from(error: GenerateError) -> Self {
        match error {
            GenerateError::Decoder(e) => e.into(),
            GenerateError::Sampling(e) => e.into(),
            GenerateError::Constraint(e) => e.into(),
            error => Self::new("internal", error.to_string()),
        }
    }
}
