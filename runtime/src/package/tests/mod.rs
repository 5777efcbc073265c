//! A package is read when it is whole, and refused with its own error for each way of not being so.

// Writing a package to a folder and running Python is for native hosts.
mod held;
#[cfg(all(feature = "native", not(target_arch = "wasm32")))]
mod python;
mod rows;

use super::test_package::{build_f32, tiny_spec};
use super::*;
use haikuq_format::manifest::{ManifestError, shard_name};
use haikuq_format::shard::{ShardError, layout_shard};
use pollster::block_on;

const TOKENIZER: &[u8] = b"{\"a\": 1}";

fn package() -> (MemorySource, Manifest) {
    build_f32(tiny_spec(), 3, &[("tokenizer.json", TOKENIZER)], |_, i| i as f32)
}

fn open(source: MemorySource) -> Result<Package, PackageError> {
    block_on(Package::open(source))
}

/// Puts `bytes` in the place of shard 0 and lets the manifest agree on length and hash, so that what is tested lies
/// deeper than both.
fn with_shard(bytes: Vec<u8>) -> Package {
    let (mut source, mut manifest) = package();
    manifest.shards[0].bytes = bytes.len() as u64;
    manifest.shards[0].sha256 = sha256_hex(&bytes);
    source.insert(manifest.shards[0].name.clone(), bytes);
    source.insert(MANIFEST_FILE, manifest.to_json());
    open(source).unwrap()
}

/// The entries of shard 0 as its manifest lists them.
fn entries() -> Vec<(String, u64)> {
    let package = open(package().0).unwrap();
    package.planes(0).map(|p| (entry_name(&p.tensor.name, p.chunk, p.plane.kind), p.plane.bytes)).collect()
}

fn shard_of(entries: &[(String, u64)]) -> Vec<u8> {
    let layout = layout_shard(entries).unwrap();
    let mut bytes = layout.header;
    bytes.resize(layout.file_bytes as usize, 0);
    bytes
}

#[test]
fn a_whole_package_is_read() {
    let (source, manifest) = package();
    let package = open(source).unwrap();
    assert_eq!(package.manifest(), &manifest);
    assert_eq!(block_on(package.read_file("tokenizer.json")).unwrap(), TOKENIZER);
    assert_eq!(block_on(package.read_optional("chat_template.jinja")).unwrap(), None);
    let mut planes = 0;
    for shard in 0..manifest.shards.len() {
        let bytes = block_on(package.read_shard(shard)).unwrap();
        for p in package.planes(shard) {
            let at = p.plane.offset as usize;
            let first_row: Vec<f32> =
                bytes[at..at + 16].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            assert_eq!(first_row, [0.0, 1.0, 2.0, 3.0], "{}", p.tensor.name);
            planes += 1;
        }
    }
    assert_eq!(planes, manifest.tensors.len(), "one values plane a tensor");
}

#[test]
fn a_missing_file_is_named() {
    let missing = |r: Result<Vec<u8>, PackageError>, name: &str| match r.unwrap_err() {
        PackageError::Source(SourceError::Missing { file, .. }) => assert_eq!(file, name),
        e => panic!("{e}"),
    };
    assert!(
        matches!(open(MemorySource::new()), Err(PackageError::Source(SourceError::Missing { file, .. })) if file == MANIFEST_FILE)
    );
    let (mut source, manifest) = package();
    source.remove(&manifest.shards[1].name);
    source.remove("tokenizer.json");
    let package = open(source).unwrap();
    missing(block_on(package.read_shard(1)), &manifest.shards[1].name);
    missing(block_on(package.read_file("tokenizer.json")), "tokenizer.json");
}

#[test]
fn what_the_manifest_does_not_list_is_not_read() {
    let (mut source, manifest) = package();
    source.insert("secret.txt", vec![1]);
    let package = open(source).unwrap();
    assert!(matches!(block_on(package.read_file("secret.txt")), Err(PackageError::NotListed { file }) if file == "secret.txt"));
    let count = manifest.shards.len();
    assert!(matches!(block_on(package.read_shard(count)), Err(PackageError::NoSuchShard { index, .. }) if index == count));
}

#[test]
fn a_truncated_shard_is_refused_with_both_lengths() {
    let (mut source, manifest) = package();
    source.get_mut(&manifest.shards[0].name).unwrap().truncate(300);
    match block_on(open(source).unwrap().read_shard(0)).unwrap_err() {
        PackageError::Truncated { file, expected, found } => {
            assert_eq!((file, expected, found), (manifest.shards[0].name.clone(), manifest.shards[0].bytes, 300));
        }
        e => panic!("{e}"),
    }
}

#[test]
fn a_file_that_is_too_long_is_refused() {
    let (mut source, manifest) = package();
    source.get_mut(&manifest.shards[0].name).unwrap().push(0);
    source.get_mut("tokenizer.json").unwrap().extend([b' '; 1000]);
    let package = open(source).unwrap();
    assert!(
        matches!(block_on(package.read_shard(0)), Err(PackageError::TooLong { expected, .. }) if expected == manifest.shards[0].bytes)
    );
    assert!(matches!(block_on(package.read_file("tokenizer.json")), Err(PackageError::TooLong { expected: 8, .. })));
}

#[test]
fn a_flipped_bit_is_refused() {
    let (mut source, manifest) = package();
    *source.get_mut(&manifest.shards[0].name).unwrap().last_mut().unwrap() ^= 1;
    source.get_mut("tokenizer.json").unwrap()[2] ^= 1;
    let package = open(source).unwrap();
    match block_on(package.read_shard(0)).unwrap_err() {
        PackageError::Hash { file, expected, found } => {
            assert_eq!((file, &expected), (manifest.shards[0].name.clone(), &manifest.shards[0].sha256));
            assert_ne!(expected, found);
        }
        e => panic!("{e}"),
    }
    assert!(matches!(block_on(package.read_file("tokenizer.json")), Err(PackageError::Hash { .. })));
}

#[test]
fn a_shard_that_is_no_safetensors_file_is_refused() {
    let length = package().1.shards[0].bytes as usize;
    let mut oversized = (u64::MAX / 2).to_le_bytes().to_vec();
    oversized.resize(length, b' ');
    for bytes in [vec![0; length], oversized] {
        let package = with_shard(bytes);
        assert!(matches!(block_on(package.read_shard(0)), Err(PackageError::Shard { source: ShardError::Header(_), .. })));
    }
}

#[test]
fn an_entry_at_another_offset_is_refused() {
    let mut swapped = entries();
    swapped.swap(0, 1);
    assert_ne!(align(swapped[0].1), align(swapped[1].1), "two entries of one size could change places unseen by their offsets");
    match block_on(with_shard(shard_of(&swapped)).read_shard(0)).unwrap_err() {
        PackageError::EntryOffset { entry, expected, found, .. } => {
            assert_eq!(entry, swapped[1].0);
            assert!(expected < found);
        }
        e => panic!("{e}"),
    }
}

#[test]
fn an_entry_of_another_size_is_refused() {
    let mut grown = entries();
    grown.last_mut().unwrap().1 += 256;
    match block_on(with_shard(shard_of(&grown)).read_shard(0)).unwrap_err() {
        PackageError::EntrySize { entry, expected, found, .. } => {
            assert_eq!((&entry, found), (&grown.last().unwrap().0, expected + 256));
        }
        e => panic!("{e}"),
    }
}

#[test]
fn a_missing_and_a_surplus_entry_are_refused() {
    let mut renamed = entries();
    renamed.last_mut().unwrap().0 = "x".repeat(renamed.last().unwrap().0.len());
    assert!(matches!(block_on(with_shard(shard_of(&renamed)).read_shard(0)), Err(PackageError::MissingEntry { .. })));
    let mut more = entries();
    more.push(("surplus.0.values".into(), 4));
    let result = block_on(with_shard(shard_of(&more)).read_shard(0));
    assert!(matches!(result, Err(PackageError::UnexpectedEntry { entry, .. }) if entry == "surplus.0.values"));
}

#[test]
fn an_oversized_manifest_is_refused_unread() {
    struct Endless;
    impl ByteSource for Endless {
        fn read<'a>(&'a self, _: &'a str, range: Range<u64>) -> SourceFuture<'a, Result<Vec<u8>, SourceError>> {
            Box::pin(async move { Ok(vec![b' '; (range.end - range.start) as usize]) })
        }
    }
    assert!(matches!(block_on(Package::open(Endless)), Err(PackageError::ManifestTooLarge { limit: MAX_MANIFEST_BYTES })));
}

#[test]
fn a_manifest_of_another_version_is_refused_by_its_number() {
    let (mut source, manifest) = package();
    let mut value = serde_json::to_value(&manifest).unwrap();
    // What else an old manifest says is not looked at: its spec had other members.
    value["spec"] = serde_json::json!({"num_heads": 2});
    for (major, minor, way_out) in [(7, 3, "use a newer haikuq"), (1, 0, "convert the checkpoint again with this haikuq")] {
        value["version"] = serde_json::json!({"major": major, "minor": minor});
        source.insert(MANIFEST_FILE, serde_json::to_vec(&value).unwrap());
        let error = open(source.clone()).unwrap_err();
        let PackageError::Manifest(ManifestError::Version { major: m, minor: n }) = &error else { panic!("{error}") };
        assert_eq!((*m, *n), (major, minor));
        assert!(error.to_string().contains(&format!("version {major}.{minor} is not supported")), "{error}");
        assert!(error.to_string().ends_with(way_out), "{error}");
    }
}

#[test]
fn names_that_some_system_takes_for_another_are_refused() {
    let refused = |change: &dyn Fn(&mut Manifest)| {
        let (mut source, mut manifest) = package();
        change(&mut manifest);
        source.insert(MANIFEST_FILE, manifest.to_json());
        open(source).unwrap_err().to_string()
    };
    let long = "x".repeat(201);
    for name in ["con", "NUL.json", "Com1", "lpt9.safetensors", "aux", "prn.txt", "a.", ".a", "a b", "", &long] {
        let said = refused(&|m| m.files[0].name = name.into());
        assert!(said.contains("not a plain file name"), "{name}: {said}");
    }
    let upper = package().1.shards[0].name.replace('w', "W");
    for name in ["HAIKUQ.json", "haikuq.json", &upper] {
        let said = refused(&|m| m.files[0].name = name.into());
        assert!(said.contains("listed twice"), "{name}: {said}");
    }
    for name in ["console", "com10", "null.json", "a.con", "lpt"] {
        let (mut source, mut manifest) = package();
        manifest.files[0].name = name.into();
        source.insert(MANIFEST_FILE, manifest.to_json());
        assert!(open(source).is_ok(), "{name}");
    }
    let said = refused(&|m| m.shards.iter_mut().for_each(|s| s.bytes = u64::MAX / 2));
    assert!(said.contains("larger together"), "{said}");
}

#[test]
fn members_that_are_there_twice_are_refused() {
    let (mut source, manifest) = package();
    let text = String::from_utf8(manifest.to_json()).unwrap();
    for (member, twice) in
        [("\"shards\":", "\"shards\": [],"), ("\"hidden_size\":", "\"hidden_size\": 16,"), ("\"major\":", "\"major\": 2,")]
    {
        source.insert(MANIFEST_FILE, text.replacen(member, &format!("{twice} {member}"), 1).into_bytes());
        let said = open(source.clone()).unwrap_err().to_string();
        assert!(said.contains("duplicate field"), "{said}");
    }
}

#[test]
fn manifests_out_of_proportion_are_refused_at_once() {
    let (mut source, manifest) = package();
    let mut value = serde_json::to_value(&manifest).unwrap();
    let layer = value["spec"]["layers"][0].clone();
    let entry = value["tensors"][0].clone();
    value["spec"]["layers"] = vec![layer; 100_000].into();
    source.insert(MANIFEST_FILE, serde_json::to_vec(&value).unwrap());
    assert!(open(source.clone()).unwrap_err().to_string().contains("number of layers is 100000"));
    let mut value = serde_json::to_value(&manifest).unwrap();
    value["tensors"] = vec![entry; 100_000].into();
    source.insert(MANIFEST_FILE, serde_json::to_vec(&value).unwrap());
    assert!(open(source).unwrap_err().to_string().contains("stands where the spec has"));
}

#[test]
fn a_manifest_that_names_a_path_is_refused() {
    let (mut source, mut manifest) = package();
    manifest.shards[0].name = "../../etc/passwd".into();
    source.insert(MANIFEST_FILE, manifest.to_json());
    assert!(matches!(open(source), Err(PackageError::Manifest(ManifestError::File { .. }))));
}

#[test]
fn a_manifest_with_a_length_of_the_largest_number_is_harmless() {
    let (mut source, mut manifest) = package();
    let name = shard_name(0, manifest.shards.len());
    manifest.shards[0].bytes = u64::MAX;
    source.insert(MANIFEST_FILE, manifest.to_json());
    let result = open(source);
    assert!(matches!(result, Err(PackageError::Manifest(ManifestError::File { file, .. })) if file == name));
}

/// Keeps copies, the first of which is damaged: what a browser's store can come to.
struct Copies {
    stored: std::sync::Mutex<MemorySource>,
    origin: MemorySource,
    refreshed: Arc<std::sync::Mutex<Vec<String>>>,
}

impl ByteSource for Copies {
    fn read<'a>(&'a self, file: &'a str, range: Range<u64>) -> SourceFuture<'a, Result<Vec<u8>, SourceError>> {
        // Fewer bytes than asked for, and no whole words, as a stream gives them.
        let result = block_on(self.stored.lock().unwrap().read(file, range.start..range.end.min(range.start + 333)));
        Box::pin(std::future::ready(result))
    }

    fn refresh<'a>(&'a self, file: &'a str) -> SourceFuture<'a, Result<bool, SourceError>> {
        let again = !self.refreshed.lock().unwrap().iter().any(|f| f == file);
        self.refreshed.lock().unwrap().push(file.to_owned());
        let bytes = block_on(self.origin.read(file, 0..u64::MAX)).unwrap();
        self.stored.lock().unwrap().insert(file, bytes);
        Box::pin(std::future::ready(Ok(again)))
    }
}

#[test]
fn a_damaged_copy_is_replaced_once() {
    let (good, manifest) = package();
    let name = &manifest.shards[0].name;
    let mut bad = good.clone();
    bad.get_mut(name).unwrap()[700] ^= 1;
    let whole = block_on(good.read(name, 0..u64::MAX)).unwrap();
    for (origin, repaired) in [(&good, true), (&bad, false)] {
        let refreshed = Arc::<std::sync::Mutex<Vec<String>>>::default();
        let copies = Copies { stored: bad.clone().into(), origin: origin.clone(), refreshed: refreshed.clone() };
        let package = block_on(Package::open(copies)).unwrap();
        let mut bytes = vec![0; whole.len()];
        let result = block_on(package.stream_shard(0, &mut |offset, piece| {
            assert!(offset % 4 == 0, "pieces can be written to a buffer");
            bytes[offset as usize..][..piece.len()].copy_from_slice(piece);
        }));
        assert_eq!(*refreshed.lock().unwrap(), std::slice::from_ref(name), "one more chance, not two");
        if repaired {
            result.unwrap();
            assert!(bytes == whole, "the good bytes were handed over last");
        } else {
            assert!(matches!(result, Err(PackageError::Hash { .. })));
        }
    }
}
