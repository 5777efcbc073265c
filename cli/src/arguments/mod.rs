//! Arguments that several verbs share.

pub mod browser;
pub mod checkpoint;
pub mod device;
pub mod format;
pub mod generation;

/// A whole number of at least 1.
pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(e) => Err(format!("{e}")),
    }
}
