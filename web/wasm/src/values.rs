//! Small JavaScript values.

use js_sys::{Array, Object, Reflect};
use wasm_bindgen::JsValue;

/// A plain object of these fields.
pub fn object<const N: usize>(fields: [(&str, JsValue); N]) -> JsValue {
    let object = Object::new();
    for (name, value) in fields {
        // Setting a field of a fresh plain object cannot fail.
        let _ = Reflect::set(&object, &name.into(), &value);
    }
    object.into()
}

/// A byte count: exact up to 2^53.
pub fn number(n: u64) -> JsValue {
    JsValue::from_f64(n as f64)
}

/// An array of numbers.
pub fn numbers(values: impl IntoIterator<Item = u32>) -> JsValue {
    values.into_iter().map(JsValue::from).collect::<Array>().into()
}
