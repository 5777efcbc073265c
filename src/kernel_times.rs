//! Times of kernels that the runtime measured, kept in the user's cache folder: a JSON file a device.

use haikuq_files::{hex, write_atomically};
use haikuq_runtime::kernels::measured::Measured;
use sha2::{Digest, Sha256};
use std::io;
use std::path::PathBuf;

/// Largest file of times that is read.
const MAX_BYTES: u64 = 16 << 20;

/// The folder of these files.
#[derive(Clone, Debug)]
pub struct KernelTimes {
    folder: PathBuf,
}

impl KernelTimes {
    /// `haikuq/kernels` in `XDG_CACHE_HOME` or `~/.cache`; none without a home.
    pub fn in_user_cache() -> Option<Self> {
        let variable = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
        let cache = variable.or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
        Some(Self::at(cache.join("haikuq").join("kernels")))
    }

    /// In `folder`, which is made when there is something to keep.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The file of a device ([`Gpu::key`](haikuq_runtime::device::Gpu::key)).
    pub fn file(&self, device: &str) -> PathBuf {
        let name = device.split(" (").next().unwrap_or_default().to_lowercase();
        let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
        self.folder.join(format!("{plain}-{}.json", &hex(&Sha256::digest(device))[..16]))
    }

    /// What is known of a device: nothing where the file is another runtime's.
    ///
    /// # Errors
    /// In words, if there is a file and it cannot be read; it counts as absent then, and is replaced.
    pub fn read(&self, device: &str) -> Result<Option<Measured>, String> {
        let path = self.file(device);
        let fail = |why: String| format!("{}: {why}; kernels are measured again", path.display());
        let text = match haikuq_files::read_text(&path, MAX_BYTES) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|e| fail(e.to_string()))?,
        };
        let measured: Measured = serde_json::from_str(&text).map_err(|e| fail(format!("not a file of kernel times ({e})")))?;
        Ok(Some(measured).filter(|m| m.is_of(device)))
    }

    /// Keeps what is known of a device.
    ///
    /// # Errors
    /// If the folder or the file cannot be written. An earlier file stays then.
    pub fn write(&self, measured: &Measured) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let text = serde_json::to_string_pretty(measured)?;
        write_atomically(&self.file(&measured.device), format!("{text}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use haikuq_runtime::kernels::measured::Times;
    use std::collections::BTreeMap;

    const DEVICE: &str = "Some GPU/2 (Vulkan; driver 1; 10de:2335; profile 00)";

    fn measured() -> Measured {
        let mut measured = Measured::on(DEVICE.into());
        let microseconds = BTreeMap::from([("matvec".to_string(), Some(12.5)), ("matvec_int8".to_string(), None)]);
        measured.add(Times { operation: "project".into(), shape: "a token, q4/32, 8 × 32, store".into(), microseconds });
        measured
    }

    #[test]
    fn times_of_a_device_come_back_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let times = KernelTimes::at(dir.path().join("haikuq/kernels"));
        assert_eq!(times.read(DEVICE).unwrap(), None);
        times.write(&measured()).unwrap();
        assert_eq!(times.read(DEVICE).unwrap(), Some(measured()));
        let other = DEVICE.replace("driver 1", "driver 2");
        assert_eq!(times.read(&other).unwrap(), None);
        let name = times.file(DEVICE).file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with("some-gpu-2-") && name.ends_with(".json"), "{name}");
    }

    #[test]
    fn a_broken_file_is_told_and_replaced_and_that_of_another_runtime_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let times = KernelTimes::at(dir.path().into());
        for broken in ["", "{\"version\": 1", "[]", "\u{fffd}"] {
            std::fs::write(times.file(DEVICE), broken).unwrap();
            let told = times.read(DEVICE).unwrap_err();
            assert!(told.contains("some-gpu-2-") && told.contains("measured again"), "{told}");
        }
        times.write(&Measured { version: "0.0.1: project matvec".into(), ..measured() }).unwrap();
        assert_eq!(times.read(DEVICE).unwrap(), None);
        times.write(&measured()).unwrap();
        assert_eq!(times.read(DEVICE).unwrap(), Some(measured()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
