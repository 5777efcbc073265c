//! Single rows are those of the whole tensor, in every scheme.

use super::python::{of_every_scheme, weights};
use super::*;
use haikuq_format::layout::{PlaneBuffers, dequantize};

#[test]
fn rows_are_those_of_the_whole_in_every_scheme() {
    let (source, manifest) = of_every_scheme();
    let package = block_on(Package::open(source)).unwrap();
    for tensor in manifest.tensors.iter().filter(|t| t.rows() > 1) {
        let (columns, rows, whole) = (tensor.columns(), tensor.rows() as u32, weights(&package, tensor));
        // Next to the ends of chunks, within a word of four rows' scales and of eight zero points, and one twice.
        let wanted: Vec<u32> = [0, 1, 2, 3, 6, 7, 8, 13, rows / 2, rows - 1, 6].into_iter().filter(|row| *row < rows).collect();
        let mut table = package.rows_of(&tensor.name).unwrap();
        let planes = block_on(table.gather(&wanted)).unwrap();
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        let planes: PlaneBuffers = planes.iter().map(|(k, bytes)| (*k, bytes.chunks_exact(4).map(word).collect())).collect();
        let planes: Vec<_> = planes.iter().map(|(kind, words)| (*kind, words.as_slice())).collect();
        let found = dequantize(tensor.scheme, wanted.len(), columns, &planes);
        let expected = wanted.iter().flat_map(|row| &whole[*row as usize * columns..][..columns]);
        assert!(found.iter().map(|x| x.to_bits()).eq(expected.map(|x| x.to_bits())), "{} in {}", tensor.name, tensor.scheme);
    }
    assert!(package.rows_of("no such tensor").is_none());
}

#[test]
fn a_file_that_has_become_shorter_is_named() {
    let (mut source, manifest) = of_every_scheme();
    let embedding = manifest.tensors.iter().find(|t| t.name == "embedding").unwrap();
    let file = manifest.shards[embedding.chunks[0].planes[0].shard].name.clone();
    source.get_mut(&file).unwrap().truncate(300);
    let mut table = block_on(Package::open(source)).unwrap().rows_of("embedding").unwrap();
    let error = block_on(table.gather(&[1])).unwrap_err();
    assert!(matches!(&error, PackageError::Truncated { file: found, .. } if *found == file), "{error}");
}
