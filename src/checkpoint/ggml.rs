//! Block formats of GGUF files, dequantized by candle.

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use std::borrow::Cow;

/// Dequantizes whole blocks of `dtype` into `out`. Fails with candle's reason.
pub(super) fn dequantize(dtype: GgmlDType, data: &[u8], out: &mut [f32]) -> Result<(), String> {
    match dtype.from_data(Cow::Borrowed(data)).dequantize(out.len()).map_err(|e| e.to_string())? {
        CpuStorage::F32(values) => out.copy_from_slice(&values),
        _ => return Err(format!("candle gives no f32 numbers for {dtype:?}")),
    }
    Ok(())
}
