//! ONNX exports that are ambiguous, damaged or hostile: each is refused with words of its own, and none makes it panic.

mod support;

use haikuq::checkpoint::onnx_messages::{AttributeProto, AttributeType, FunctionProto, GraphProto, NodeProto};
use support::onnx::*;
use support::{assert_says, contents};

#[test]
fn weights_without_names_or_scopes_are_refused_with_what_they_could_be() {
    let export = Export::changed("llama-inline", |model| {
        model.graph.node.iter_mut().for_each(|n| n.metadata_props.clear());
    });
    let said = export.refusal();
    assert_says(
        &said,
        &["cannot tell which tensor is model.layers.0.self_attn", "could be", "val_130 [64, 64], taken by MatMul node_linear"],
    );
    assert_says(&said, &["Export the model again", "safetensors"]);
}

#[test]
fn a_tensor_whose_name_and_node_disagree_is_refused() {
    let export = Export::changed("llama-inline", |model| {
        let name = "model.layers.1.self_attn.k_proj.weight";
        tensor(&mut model.graph, "val_137").name = name.into();
        node(&mut model.graph, "node_linear_1").input[1] = name.into();
    });
    let said = export.refusal();
    assert_says(&said, &["model.layers.1.self_attn.k_proj.weight", "its node is of model.layers.0.self_attn.k_proj.weight"]);
}

#[test]
fn two_different_tensors_for_one_weight_are_refused() {
    let export = Export::changed("llama-inline", |model| {
        let scope = node(&mut model.graph, "node_linear_1").metadata_props.clone();
        node(&mut model.graph, "node_linear_2").metadata_props = scope;
    });
    assert_says(
        &export.refusal(),
        &["model.layers.0.self_attn.k_proj.weight: tensors that differ", "val_137 [64, 32]", "val_144"],
    );
}

#[test]
fn a_weight_that_nothing_asks_for_is_refused() {
    let export = Export::changed("llama-inline", |model| {
        model.graph.initializer.push(float_tensor("lora", &[64, 8], 0.5));
        model.graph.node.push(new_node("MatMul", "extra", &["embedding", "lora"], "lost"));
    });
    assert_says(&export.refusal(), &["tensor lora [64, 8] (MatMul extra) is none of the weights"]);
    let export = Export::changed("llama-inline", |model| model.graph.initializer.push(float_tensor("lost", &[64, 8], 0.5)));
    assert_says(&export.refusal(), &["tensor lost [64, 8] (nothing takes it)"]);
    let export = Export::changed("llama-inline", |model| {
        let output = std::mem::replace(&mut node(&mut model.graph, "node_linear").output[0], "product".into());
        model.graph.node.push(new_node("Add", "extra", &["product", "bias"], &output));
        model.graph.initializer.push(float_tensor("bias", &[64], 0.5));
    });
    assert_says(&export.refusal(), &["tensor bias [64] (Add extra)"]);
    // Zeros, which exporters give norms that have no bias, are none.
    let export = Export::changed("llama-inline", |model| {
        let output = std::mem::replace(&mut node(&mut model.graph, "node_linear").output[0], "product".into());
        model.graph.node.push(new_node("Add", "extra", &["product", "bias"], &output));
        model.graph.initializer.push(float_tensor("bias", &[64], 0.0));
    });
    export.assert_still("llama-inline");
}

#[test]
fn a_tied_head_that_differs_is_refused_and_an_equal_copy_is_not() {
    let with_copy = |value: Option<f32>| {
        Export::changed("llama-inline", |model| {
            let mut copy = tensor(&mut model.graph, "lm_head.weight").clone();
            copy.name = "copy".into();
            if let Some(value) = value {
                copy.raw_data[4 * 64 * 7..][..4].copy_from_slice(&value.to_le_bytes());
            }
            model.graph.initializer.push(copy);
            node(&mut model.graph, "node_Transpose_384").input[0] = "copy".into();
        })
    };
    with_copy(None).assert_still("llama-inline");
    assert_says(
        &with_copy(Some(9.0)).refusal(),
        &["the config says that lm_head.weight is model.embed_tokens.weight", "copy", "row 7"],
    );
}

#[test]
fn quantized_exports_are_refused_as_such() {
    let export = Export::changed("llama-inline", |model| {
        let product = node(&mut model.graph, "node_linear");
        (product.op_type, product.domain) = ("MatMulNBits".into(), "com.microsoft".into());
    });
    assert_says(&export.refusal(), &["quantized already", "MatMulNBits nodes, such as node_linear"]);
    let export = Export::changed("llama-inline", |model| {
        let query = tensor(&mut model.graph, QUERY);
        (query.data_type, query.raw_data) = (3, vec![1; 64 * 64]);
        query.name = "packed".into();
        model.graph.node.insert(0, new_node("Cast", "", &["packed"], QUERY));
    });
    assert_says(&export.refusal(), &["quantized already", "tensor packed holds I8 numbers"]);
}

#[test]
fn number_formats_that_weights_do_not_have_are_refused() {
    for (data_type, label) in [(11, "F64"), (99, "unknown (99)")] {
        let export = Export::changed("llama-inline", |model| tensor(&mut model.graph, QUERY).data_type = data_type);
        assert_says(&export.refusal(), &["model.layers.0.self_attn.q_proj.weight holds", label]);
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused_with_numbers() {
    let with_dims =
        |dims: &[i64]| Export::changed("llama-inline", |m| tensor(&mut m.graph, QUERY).dims = dims.to_vec()).refusal();
    assert_says(&with_dims(&[64, 65]), &["tensor val_130: shape [64, 65] of F32 takes 16640 bytes, it has 16384"]);
    assert_says(&with_dims(&[64, -64]), &["tensor val_130: shape [64, -64] is beyond all bounds"]);
    assert_says(&with_dims(&[i64::MAX, i64::MAX]), &["beyond all bounds"]);
    assert_says(&with_dims(&[128, 32]), &["model.layers.0.self_attn.q_proj.weight has shape [32, 128]", "[64, 64]"]);
}

#[test]
fn external_data_stays_in_its_folder() {
    let at = |location: &str| {
        Export::changed("qwen3-genai", |m| set_external(tensor(&mut m.graph, "lm_head.MatMul.weight"), "location", location))
            .refusal()
    };
    for location in ["../model.onnx.data", "/etc/passwd", "a/../../x", "C:\\x", "C:x", "..\\x", "a\\b", "", ".."] {
        assert_says(&at(location), &["places tensor lm_head.MatMul.weight in", "plain path within the model's folder"]);
    }
    assert_says(&at("missing.data"), &["\"missing.data\": cannot read", "missing.data"]);
    assert_says(&at("."), &["it is no file"]);
}

#[test]
fn external_data_beyond_its_file_or_on_each_other_is_refused() {
    let with = |key: &str, value: &str| {
        Export::changed("qwen3-genai", |m| set_external(tensor(&mut m.graph, "lm_head.MatMul.weight"), key, value)).refusal()
    };
    assert_says(&with("length", "81916"), &["takes 81920 bytes, it has 81916"]);
    assert_says(&with("length", "18446744073709551615"), &["18446744073709551615 bytes from byte", "the file has 460288"]);
    assert_says(&with("offset", "460284"), &["81920 bytes from byte 460284 on are wanted, the file has 460288"]);
    assert_says(&with("offset", "-1"), &["offset \"-1\" is no number of bytes"]);
    assert_says(&with("offset", "0"), &["inside tensor"]);
    assert_says(&with("checksum", &"0".repeat(40)), &["its SHA-1 is", "the model says 0000"]);
}

#[test]
#[cfg(unix)]
fn links_lead_no_further_than_the_folder_or_the_blobs_of_the_same_cache() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().unwrap();
    let export = Export::of("qwen3-genai");
    let data = std::fs::read(export.path("model.onnx.data")).unwrap();
    std::fs::write(outside.path().join("data"), &data).unwrap();
    std::fs::remove_file(export.path("model.onnx.data")).unwrap();
    symlink(outside.path().join("data"), export.path("model.onnx.data")).unwrap();
    assert_says(&export.refusal(), &["it leads to", "outside of the model's folder"]);
    std::fs::remove_file(export.path("model.onnx.data")).unwrap();
    std::fs::write(export.path("weights"), &data).unwrap();
    symlink("weights", export.path("model.onnx.data")).unwrap();
    export.assert_still("qwen3-genai");

    // models--o--n/snapshots/revision/model.onnx is a link to models--o--n/blobs/hash.
    let cache = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (cache.path().join("models--o--n/blobs"), cache.path().join("models--o--n/snapshots/0123"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    for (i, (name, bytes)) in contents(&fixture("qwen3-genai")).into_iter().enumerate() {
        std::fs::write(blobs.join(i.to_string()), bytes).unwrap();
        symlink(format!("../../blobs/{i}"), snapshot.join(name)).unwrap();
    }
    assert_same_weights(&snapshot, &fixture("qwen3-genai"));
    // Another repository's blobs are not its own.
    let other = cache.path().join("models--o--other/blobs");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("data"), &data).unwrap();
    std::fs::remove_file(snapshot.join("model.onnx.data")).unwrap();
    symlink(other.join("data"), snapshot.join("model.onnx.data")).unwrap();
    assert_says(&refusal(&snapshot), &["it leads to", "outside of the model's folder"]);
    // Blobs are none of a model that is no link itself.
    std::fs::remove_file(snapshot.join("model.onnx.data")).unwrap();
    std::fs::write(blobs.join("data"), &data).unwrap();
    symlink("../../blobs/data", snapshot.join("model.onnx.data")).unwrap();
    assert_same_weights(&snapshot, &fixture("qwen3-genai"));
    std::fs::remove_file(snapshot.join("model.onnx")).unwrap();
    std::fs::copy(fixture("qwen3-genai").join("model.onnx"), snapshot.join("model.onnx")).unwrap();
    assert_says(&refusal(&snapshot), &["outside of the model's folder"]);
}

#[test]
fn no_damage_makes_it_panic() {
    let export = Export::of("llama-inline");
    let good = std::fs::read(export.path("model.onnx")).unwrap();
    let try_with = |bytes: &[u8]| {
        std::fs::write(export.path("model.onnx"), bytes).unwrap();
        open(export.dir.path()).err()
    };
    for length in [0, 1, 7, 8, 9, 100, 1000, good.len() / 3, good.len() / 2, good.len() - 100, good.len() - 1] {
        let said = try_with(&good[..length]).expect("a refusal");
        assert!(said.contains("model.onnx"), "{said}");
    }
    assert_says(&try_with(&[0xff; 64]).unwrap(), &["is not an ONNX model that can be read"]);
    // Bytes that say how long things are, turned over.
    let mut state = 1u64;
    for _ in 0..300 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut bytes = good.clone();
        let at = (state >> 33) as usize % bytes.len();
        bytes[at] ^= 1 << (state >> 20 & 7);
        bytes[at / 8] ^= 0x80;
        try_with(&bytes);
    }
}

#[test]
fn nesting_without_end_is_refused() {
    let nested = |depth: usize| {
        let mut graph = GraphProto::default();
        for _ in 0..depth {
            let mut inner = new_node("If", "", &[], "y");
            let g = Some(std::mem::take(&mut graph));
            inner.attribute.push(AttributeProto {
                name: "then_branch".into(),
                g,
                r#type: AttributeType::Graph.into(),
                ..Default::default()
            });
            graph.node.push(inner);
        }
        Export::changed("llama-inline", |model| model.graph.node.extend(graph.node)).refusal()
    };
    assert_says(&nested(40), &["graphs within graphs deeper than 16"]);
    // A function that calls itself, and functions that call the next one twice.
    let calls = |name: &str, next: &str| FunctionProto {
        name: name.into(),
        domain: "local".into(),
        node: vec![NodeProto { domain: "local".into(), ..new_node(next, "", &[], "y") }; 2],
        ..Default::default()
    };
    let export = Export::changed("llama-inline", |model| {
        model.functions.push(calls("f", "f"));
        model.graph.node.push(NodeProto { domain: "local".into(), ..new_node("f", "", &[], "y") });
    });
    assert_says(&export.refusal(), &["functions within functions deeper than 32, at f"]);
    let export = Export::changed("llama-inline", |model| {
        model.functions.extend((0..30).map(|i| calls(&format!("f{i}"), &format!("f{}", i + 1))));
        model.graph.node.push(NodeProto { domain: "local".into(), ..new_node("f0", "", &[], "y") });
    });
    assert_says(&export.refusal(), &["call each other more than"]);
    // Groups, which protobuf's own parser follows as deep as they go.
    let mut bytes = vec![0x0b; 100_000];
    bytes.extend(vec![0x0c; 100_000]);
    std::fs::write(export.path("model.onnx"), bytes).unwrap();
    assert_says(&export.refusal(), &["a group at byte 0"]);
}
