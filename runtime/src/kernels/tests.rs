//! What holds of all shader files: the flags that they test, and the parameters that they are given.

use super::{activations, embed, projection, quantize, sample};
use crate::device::Flag;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Every shader file's text by its path below this folder, without its extension.
fn shader_files() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernels");
    let mut files = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "wgsl") {
                let name = path.strip_prefix(&root).unwrap().with_extension("");
                let name = name.iter().map(|part| part.to_str().unwrap()).collect::<Vec<_>>().join("/");
                files.insert(name, std::fs::read_to_string(path).unwrap());
            }
        }
    }
    files
}

/// The names that shader files test.
fn tested_flags() -> BTreeSet<String> {
    let names_of = |text: &String| -> Vec<String> {
        let directives = text.lines().map(str::trim_start);
        let named = directives.filter_map(|l| l.strip_prefix("#ifdef ").or(l.strip_prefix("#ifndef ")));
        named.map(|n| n.trim().to_string()).collect()
    };
    shader_files().values().flat_map(names_of).collect()
}

#[test]
fn shaders_test_flags_and_every_flag_is_tested() {
    let tested = tested_flags();
    let known: BTreeSet<String> = Flag::ALL.iter().map(|f| f.name().to_string()).collect();
    assert_eq!(tested.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "names that are no flags");
    // A device directive rather than a condition.
    let unused: Vec<_> = known.difference(&tested).filter(|n| *n != Flag::Matrices.name()).collect();
    assert_eq!(unused, Vec::<&String>::new(), "flags that no shader tests");
}

/// A struct as it lies in a buffer: its fields (name, offset, type), and its size in whole vectors of 16 bytes.
#[derive(Debug, PartialEq)]
struct Layout {
    fields: Vec<(String, usize, &'static str)>,
    size: usize,
}

/// That of a Rust struct.
macro_rules! layout {
    ($type:ty: $($field:ident),* $(,)?) => {
        Layout {
            fields: vec![$((
                stringify!($field).to_string(),
                std::mem::offset_of!($type, $field),
                name_of_type(|s: &$type| &s.$field),
            )),*],
            size: size_of::<$type>().next_multiple_of(16),
        }
    };
}

/// Of the field that a function picks.
fn name_of_type<S, F>(_: impl Fn(&S) -> &F) -> &'static str {
    std::any::type_name::<F>()
}

/// That of a struct of a shader file.
fn layout_in(text: &str, name: &str) -> Layout {
    let declaration = text.split_once(&format!("struct {name} {{")).unwrap().1.split_once('}').unwrap().0;
    let module = naga::front::wgsl::parse_str(&format!("struct {name} {{{declaration}}}")).unwrap();
    let found = module.types.iter().find(|(_, t)| t.name.as_deref() == Some(name)).unwrap();
    let naga::TypeInner::Struct { members, span } = &found.1.inner else { panic!("{name} is no struct") };
    let type_name = |t: &naga::Handle<naga::Type>| match module.types[*t].inner {
        naga::TypeInner::Scalar(naga::Scalar::F32) => "f32",
        naga::TypeInner::Scalar(naga::Scalar::U32) => "u32",
        naga::TypeInner::Scalar(naga::Scalar::I32) => "i32",
        _ => "none of these",
    };
    let fields = members.iter().map(|m| (m.name.clone().unwrap(), m.offset as usize, type_name(&m.ty)));
    Layout { fields: fields.collect(), size: (*span as usize).next_multiple_of(16) }
}

/// Every struct that a shader file reads from a buffer, by the file that declares it: the same or one that it imports.
fn structs_in_buffers() -> BTreeSet<(String, String)> {
    let files = shader_files();
    let declares = |file: &String, name: &str| files.get(file).is_some_and(|text| text.contains(&format!("struct {name} {{")));
    let mut found = BTreeSet::new();
    for (file, text) in &files {
        for line in text.lines() {
            let buffer = ["var<uniform>", "var<storage"].iter().any(|kind| line.contains(kind));
            let Some((_, kind)) = line.split_once(": ").filter(|_| buffer) else { continue };
            let name = kind.trim_end_matches(';').trim_start_matches("array<").trim_end_matches('>');
            let imports = text.lines().filter_map(|l| l.strip_prefix("#import ")).map(|name| format!("shared/{name}"));
            let declared = std::iter::once(file.clone()).chain(imports).find(|file| declares(file, name));
            found.extend(declared.map(|file| (file, name.to_string())));
        }
    }
    found
}

#[test]
fn parameters_lie_where_shaders_read_them() {
    let activations = || layout!(activations::Params: filled, input_stride, pitch, tokens);
    let table = [
        (
            "embed",
            layout!(embed::Params: rows, first_row, all_rows, columns, units, groups, group_units_log2, output_stride, tokens,
                multiplier),
        ),
        ("narrow_activations", activations()),
        ("quantize", layout!(quantize::Params: stride, units, epsilon, columns)),
        ("quantize_activations", activations()),
        (
            "shared/projection",
            layout!(projection::Params: rows, first_row, units, groups, group_units_log2, input_stride, output_stride, tokens,
                multiplier, softcap, epsilon, columns, times_stride, times_first),
        ),
        (
            "shared/sampling",
            layout!(sample::SampleParams: temperature, top_k, top_p, min_p, repetition_penalty, uniform_number, sequence, spare),
        ),
    ];
    let listed: BTreeSet<_> = table.iter().map(|(file, _)| (file.to_string(), "Params".to_string())).collect();
    assert_eq!(structs_in_buffers(), listed, "structs in buffers, and those that this test compares");
    let files = shader_files();
    for (file, own) in table {
        assert_eq!(layout_in(&files[file], "Params"), own, "{file}.wgsl");
    }
}

#[test]
fn a_uniform_is_a_struct_that_is_compared_or_one_vector() {
    for (file, text) in shader_files() {
        for line in text.lines().filter(|line| line.contains("var<uniform>")) {
            let known = [": Params;", ": vec4<u32>;"].iter().any(|kind| line.ends_with(kind));
            assert!(known, "{file}.wgsl: {line}");
        }
    }
}
