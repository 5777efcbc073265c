//! Shards that a source holds are checked as those that are streamed.

use super::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Holds all files but one; the copies given out first are damaged.
struct Holding {
    files: MemorySource,
    /// Wrong copies that are still to be given out, by file.
    damaged: Mutex<BTreeMap<String, Vec<Vec<u8>>>>,
    refreshed: Arc<Mutex<Vec<String>>>,
    streamed: &'static str,
}

struct Held(Vec<u8>);

impl HeldFile for Held {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }
    fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.0).into()
    }
    fn copy(&self, range: Range<u64>) -> Vec<u8> {
        self.0[range.start as usize..range.end as usize].to_vec()
    }
    fn upload(&self, queue: &wgpu::Queue, buffer: &wgpu::Buffer, to: u64, range: Range<u64>) {
        queue.write_buffer(buffer, to, &self.copy(range));
    }
}

impl ByteSource for Holding {
    fn read<'a>(&'a self, file: &'a str, range: Range<u64>) -> SourceFuture<'a, Result<Vec<u8>, SourceError>> {
        self.files.read(file, range)
    }
    fn hold<'a>(&'a self, file: &'a str) -> SourceFuture<'a, Result<Option<Box<dyn HeldFile>>, SourceError>> {
        Box::pin(async move {
            if file == self.streamed {
                return Ok(None);
            }
            let damaged =
                self.damaged.lock().unwrap().get_mut(file).and_then(|copies| (!copies.is_empty()).then(|| copies.remove(0)));
            let bytes = match damaged {
                Some(bytes) => bytes,
                None => self.files.read(file, 0..u64::MAX).await?,
            };
            Ok(Some(Box::new(Held(bytes)) as Box<dyn HeldFile>))
        })
    }
    fn refresh<'a>(&'a self, file: &'a str) -> SourceFuture<'a, Result<bool, SourceError>> {
        self.refreshed.lock().unwrap().push(file.into());
        Box::pin(std::future::ready(Ok(true)))
    }
}

/// The package, what was refreshed of it, and shard 0 as it should be.
fn holding(streamed: &'static str, damage: &[fn(&mut Vec<u8>)]) -> (Package, Arc<Mutex<Vec<String>>>, Vec<u8>) {
    let (files, manifest) = package();
    let name = manifest.shards[0].name.clone();
    let right = block_on(files.read(&name, 0..u64::MAX)).unwrap();
    let damaged = damage.iter().map(|change| {
        let mut bytes = right.clone();
        change(&mut bytes);
        bytes
    });
    let refreshed = Arc::<Mutex<Vec<String>>>::default();
    let source = Holding {
        files,
        damaged: Mutex::new(BTreeMap::from([(name, damaged.collect())])),
        refreshed: refreshed.clone(),
        streamed,
    };
    (block_on(Package::open(source)).unwrap(), refreshed, right)
}

#[test]
fn a_whole_shard_is_given_when_it_is_right() {
    let (package, refreshed, right) = holding("", &[]);
    let held = block_on(package.hold_shard(0)).unwrap().unwrap();
    assert_eq!(held.copy(0..held.bytes()), right);
    assert!(refreshed.lock().unwrap().is_empty());
    assert!(matches!(block_on(package.hold_shard(99)), Err(PackageError::NoSuchShard { index: 99, .. })));
}

#[test]
fn what_a_source_does_not_hold_is_streamed() {
    let (package, ..) = holding("weights-00001-of-00003.safetensors", &[]);
    assert_eq!(package.manifest().shards[0].name, "weights-00001-of-00003.safetensors");
    assert!(block_on(package.hold_shard(0)).unwrap().is_none());
    let folder = open(super::package().0).unwrap();
    assert!(block_on(folder.hold_shard(0)).unwrap().is_none(), "a source that holds nothing");
}

#[test]
fn a_damaged_copy_is_replaced_once() {
    let flip: fn(&mut Vec<u8>) = |bytes| *bytes.last_mut().unwrap() ^= 1;
    let cut: fn(&mut Vec<u8>) = |bytes| bytes.truncate(bytes.len() - 1);
    let long: fn(&mut Vec<u8>) = |bytes| bytes.push(0);
    for change in [flip, cut, long] {
        let (package, refreshed, right) = holding("", &[change]);
        let held = block_on(package.hold_shard(0)).unwrap().unwrap();
        assert_eq!(held.copy(0..held.bytes()), right);
        assert_eq!(refreshed.lock().unwrap().len(), 1);
    }
    let error = |change| block_on(holding("", &[change, change]).0.hold_shard(0)).err().unwrap();
    assert!(matches!(error(flip), PackageError::Hash { .. }));
    assert!(matches!(error(cut), PackageError::Truncated { .. }));
    assert!(matches!(error(long), PackageError::TooLong { .. }));
}

#[test]
fn a_shard_with_the_right_hash_and_other_entries_is_refused() {
    let mut entries = entries();
    entries[0].0 = "somebody.0.codes".into();
    let bytes = shard_of(&entries);
    let (mut files, mut manifest) = package();
    manifest.shards[0].bytes = bytes.len() as u64;
    manifest.shards[0].sha256 = sha256_hex(&bytes);
    files.insert(manifest.shards[0].name.clone(), bytes);
    files.insert(MANIFEST_FILE, manifest.to_json());
    let source = Holding { files, damaged: Mutex::default(), refreshed: Arc::default(), streamed: "" };
    let error = block_on(block_on(Package::open(source)).unwrap().hold_shard(0)).err().unwrap();
    assert!(matches!(error, PackageError::MissingEntry { .. }), "{error}");
}
