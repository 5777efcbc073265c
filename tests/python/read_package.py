"""Reads a haikuq package with nothing but numpy and safetensors, by docs/package-format.md alone.

    python read_package.py FOLDER

prints a JSON object: for each tensor the SHA-256 of its weights as little-endian f32, row after row, without padding.
Anything that a reader must check and that does not hold ends the program with a message and exit code 1.
"""

import hashlib
import json
import re
import sys
from math import ceil, prod
from pathlib import Path

import numpy as np
from safetensors.numpy import load

ALIGNMENT = 256
UNIT = 32
MAX_PLANE_BYTES = 64 << 20
MAX_MANIFEST_BYTES = 64 << 20
MAX_HEADER_BYTES = 16 << 20
MAX_NAME_BYTES = 200
MAX_BYTES = 2**53
MAX_SIZE = 2**24
MAX_LAYERS = 4096
MAX_KERNEL = 16
MAX_STATE = 2**28
MAX_EXPERTS = 2**10
# Windows takes these for devices, whatever follows a first dot.
DEVICES = r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?"


class BadPackage(Exception):
    """A check that does not hold."""


def check(holds, message):
    if not holds:
        raise BadPackage(message)


def align(n):
    return ceil(n / ALIGNMENT) * ALIGNMENT


def read_json(text, known, what):
    """JSON of finite numbers, in which no member that is known (any, where `known` is None) stands twice."""

    def members(pairs):
        names = [name for name, _ in pairs]
        twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
        check(not (twice if known is None else twice & known), f"{what}: {sorted(twice)} stand twice")
        return dict(pairs)

    def no_constant(name):
        raise BadPackage(f"{what}: {name} is no number of JSON")

    try:
        return json.loads(text, object_pairs_hook=members, parse_constant=no_constant)
    except ValueError as problem:
        raise BadPackage(f"{what}: {problem}") from problem


# The manifest


def read_manifest(folder):
    text = read_bytes(folder, "haikuq.json", MAX_MANIFEST_BYTES)
    check(len(text) <= MAX_MANIFEST_BYTES, "haikuq.json is too large")
    manifest = read_json(text, set(f"{MANIFEST} {SPEC} {LAYER} {PER_LAYER} {ATTENTION} {SHORT_CONV} {DELTA_NET} {MAMBA2} {MLP}".split()), "haikuq.json")
    check(manifest.get("format") == "haikuq", f"format is {manifest.get('format')!r}")
    version = manifest["version"]
    check(version["major"] == 2, f"version {version['major']}.{version['minor']} is not known")
    check_files(manifest)
    check_tensors(manifest)
    return manifest


def check_files(manifest):
    # Where upper and lower case are one, so are the files.
    seen, total = {"haikuq.json"}, 0
    for file in manifest["shards"] + manifest.get("files", []):
        name, size = file["name"], file["bytes"]
        plain = re.fullmatch(r"[A-Za-z0-9_-]([A-Za-z0-9._-]*[A-Za-z0-9_-])?", name) and len(name) <= MAX_NAME_BYTES
        check(plain and not re.fullmatch(DEVICES, name, re.IGNORECASE), f"{name!r} is no plain file name")
        check(name.lower() not in seen, f"{name} is listed twice, or the manifest's own name")
        check(re.fullmatch("[0-9a-f]{64}", file["sha256"]), f"{name}: bad sha256")
        check(type(size) is int and size >= 0, f"{name}: {size} bytes")
        total += size
        check(total <= MAX_BYTES, f"the files are {total} bytes together")
        seen.add(name.lower())


def check_tensors(manifest):
    shards, used = manifest["shards"], []
    expected = decoder_tensors(manifest["spec"])
    listed = [(t["name"], t["shape"], t["class"]) for t in manifest["tensors"]]
    check(listed == expected, f"the tensors are not those of the decoder: {set(map(str, listed)) ^ set(map(str, expected))}")
    for tensor in manifest["tensors"]:
        name, scheme = tensor["name"], tensor["scheme"]
        check_scheme(name, scheme)
        check(tensor["class"] not in ("vector", "router") or scheme["kind"] == "f32", f"{name}: {tensor['class']} that is not f32")
        rows, columns = matrix_shape(tensor)
        row = 0
        for chunk in tensor["chunks"]:
            check(chunk["first_row"] == row and 0 < chunk["rows"] <= rows - row, f"{name}: chunks do not follow each other")
            row += chunk["rows"]
            sizes = [(kind, 4 * words) for kind, words in plane_words(scheme, chunk["rows"], columns)]
            found = [(plane["kind"], plane["bytes"]) for plane in chunk["planes"]]
            check(found == sizes, f"{name}: planes {found}, expected {sizes}")
            for plane in chunk["planes"]:
                check(plane["bytes"] <= MAX_PLANE_BYTES, f"{name}: a plane of {plane['bytes']} bytes")
                check(plane["shard"] < len(shards), f"{name}: no shard {plane['shard']}")
                check(plane["offset"] % ALIGNMENT == 0, f"{name}: a plane at {plane['offset']}")
                end = plane["offset"] + align(plane["bytes"])
                check(end <= shards[plane["shard"]]["bytes"], f"{name}: a plane that ends at {end}")
                used.append((plane["shard"], plane["offset"], end, name))
        check(row == rows, f"{name}: chunks of {row} rows, expected {rows}")
    used.sort()
    for (shard, _, end, name), (next_shard, start, _, next_name) in zip(used, used[1:]):
        check(shard != next_shard or end <= start, f"planes of {name} and {next_name} overlap")


def check_scheme(name, scheme):
    if scheme["kind"] in ("f32", "f16"):
        return
    check(scheme["kind"] == "grouped", f"{name}: scheme {scheme['kind']!r} is not known")
    bits, offset, codebook = scheme["bits"], scheme.get("offset", "none"), scheme.get("codebook", "uniform")
    check(bits in (3, 4, 5, 8) and scheme["group"] in (32, 64, 128), f"{name}: scheme {scheme}")
    check(offset in ("none", "u4", "f16") and codebook in ("uniform", "learned"), f"{name}: scheme {scheme}")
    check(offset != "u4" or bits != 8, f"{name}: u4 zero points with 8 bits")
    check(codebook == "uniform" or (bits != 8 and offset == "none"), f"{name}: a codebook with {scheme}")
    scale = scheme.get("scale", "f16")
    check(scale == "f16" or (scale == "e4m4" and codebook == "learned"), f"{name}: scales of {scheme}")


MANIFEST = """format version major minor spec tensors shards files name bytes sha256 class shape scheme chunks relative_error
    first_row rows planes kind bits group offset codebook scale shard epsilon inv_freq each_head"""
SPEC = """vocab_size hidden_size max_context norm layers ropes tied_head head_bias learned_positions logit_softcap
    per_layer_embedding altup embedding_multiplier residual_multiplier logit_multiplier eos_token_ids bos_token_id"""
LAYER = "mixer beside laurel mlp residual norm_placement output_scale"
ALTUP = "num_streams active output_scale"
PER_LAYER = "size activation table_multiplier projection_multiplier multiplier"
ATTENTION = """num_heads num_kv_heads head_dim scale softcap window rope qk_norm qk_norm_after_rope query_scaling gate
    kv_from values_are_keys value_norm sinks qkv_bias output_bias"""
SHORT_CONV = "channels kernel_size bias"
DELTA_NET = "num_key_heads num_value_heads key_dim value_dim kernel_size"
MAMBA2 = """num_heads head_dim num_groups state_size kernel_size norm min_step max_step conv_bias input_bias output_bias"""
MLP = "intermediate_size activation gated bias experts gate_cutoff"
EXPERTS = "num_experts num_active shared shared_gate scores normalized epsilon router_bias selection_bias scale"


def known(what, members, names):
    unknown = set(members) - set(names.split())
    check(not unknown, f"{what}: members {sorted(unknown)} are not known")
    return members


def one_of(what, value, *values):
    check(value in values, f"{what} {value!r} is not known")
    return value


def sizes(what, members, names):
    """The members of these names, each a size."""
    values = [members[name] for name in names.split()]
    for name, value in zip(names.split(), values):
        check(type(value) is int and 1 <= value <= MAX_SIZE, f"{what}: {name} is {value!r}")
    return values


def kernel(what, members):
    [size] = sizes(what, members, "kernel_size")
    check(size <= MAX_KERNEL, f"{what}: a convolution over {size} positions")
    return size


def decoder_tensors(spec):
    """Name, shape and class of each tensor that the decoder has, in order."""
    known("spec", spec, SPEC)
    sizes("spec", spec, "vocab_size hidden_size max_context")
    check(1 <= len(spec["layers"]) <= MAX_LAYERS, f"{len(spec['layers'])} layers")
    h, kind = spec["hidden_size"], known("norm", spec["norm"], "kind epsilon")["kind"]
    check(type(spec["norm"]["epsilon"]) in (int, float), f"norm: epsilon {spec['norm']['epsilon']!r} is no number")
    out = []

    def norm(name, n, kind=kind):
        one_of("norm", kind, "rms", "layer", "layer_no_bias")
        out.append((f"{name}.gain", [n], "vector"))
        if kind == "layer":
            out.append((f"{name}.bias", [n], "vector"))

    def matrix(name, rows, columns, kind, bias=False):
        out.append((name, [rows, columns], kind))
        if bias:
            out.append((f"{name}.bias", [rows], "vector"))

    def own_kv(p, i, mixer):
        """How many of keys and values have rows in `qkv`."""
        source = mixer.get("kv_from")
        if source is None:
            return 1 if mixer.get("values_are_keys", False) else 2
        made = mixer.get("values_are_keys", False) or mixer.get("value_norm", False)
        check(not made, f"{p}: says how values are made, and has none")
        check(type(source) is int and 0 <= source < i, f"{p}: keys and values of layer {source}")
        other = spec["layers"][source]["mixer"].get("attention")
        check(other is not None and other.get("kv_from") is None, f"{p}: layer {source} has no keys and values of its own")
        for name in ("num_kv_heads", "head_dim", "window"):
            check(mixer.get(name) == other.get(name), f"{p}: {name} {mixer.get(name)}, and {other.get(name)} in layer {source}")
        return 0

    def attention(p, i, mixer):
        known(f"{p}: attention", mixer, ATTENTION)
        heads, kv_heads, d = sizes(f"{p}: attention", mixer, "num_heads num_kv_heads head_dim")
        check(heads % kv_heads == 0, f"{p}: {heads} heads, {kv_heads} of keys and values")
        for name in ("window", "softcap"):
            check(mixer.get(name) is None or mixer[name] > 0, f"{p}: {name} {mixer.get(name)}")
        own = own_kv(p, i, mixer)
        a, kv, qk_norm, rope = heads * d, kv_heads * d, mixer.get("qk_norm"), mixer.get("rope")
        check(rope is None or 2 * len(spec["ropes"][rope]["inv_freq"]) <= d, f"{p}: rope table {rope} does not fit")
        gates = {None: 0, "per_head": heads, "elementwise": a}[one_of("gate", mixer.get("gate"), None, "per_head", "elementwise")]
        matrix(f"{p}.qkv", a + own * kv + gates, h, "attention", mixer.get("qkv_bias", False))
        if isinstance(qk_norm, dict):
            norm(f"{p}.q_norm", a, known("qk_norm", qk_norm, "each_head")["each_head"])
            if own:
                norm(f"{p}.k_norm", kv, qk_norm["each_head"])
        elif qk_norm is not None:
            one_of("qk_norm", qk_norm, "per_head", "whole")
            norm(f"{p}.q_norm", d if qk_norm == "per_head" else a)
            if own:
                norm(f"{p}.k_norm", d if qk_norm == "per_head" else kv)
        check(qk_norm is not None or not mixer.get("qk_norm_after_rope", False), f"{p}: no norm of queries and keys after rope")
        scaling = mixer.get("query_scaling")
        if scaling is not None:
            known(f"{p}: query_scaling", scaling, "beta original_context")
            check(scaling["original_context"] > 0, f"{p}: query_scaling by {scaling}")
        if mixer.get("sinks", False):
            vector(f"{p}.sinks", heads)
        matrix(f"{p}.attention_output", h, a, "attention", mixer.get("output_bias", False))

    def vector(name, n):
        out.append((name, [n], "vector"))

    def short_conv(p, i, mixer):
        known(f"{p}: short_conv", mixer, SHORT_CONV)
        [n], size, bias = sizes(f"{p}: short_conv", mixer, "channels"), kernel(f"{p}: short_conv", mixer), mixer.get("bias", False)
        matrix(f"{p}.conv_in", 3 * n, h, "attention", bias)
        vector(f"{p}.conv.kernel", n * size)
        if bias:
            vector(f"{p}.conv.bias", n)
        matrix(f"{p}.conv_out", h, n, "attention", bias)

    def delta_net(p, i, mixer):
        what = f"{p}: delta_net"
        known(what, mixer, DELTA_NET)
        key_heads, v, key_dim, value_dim = sizes(what, mixer, "num_key_heads num_value_heads key_dim value_dim")
        size = kernel(what, mixer)
        check(v % key_heads == 0, f"{what}: {v} heads of values, {key_heads} of keys")
        check(v * key_dim * value_dim <= MAX_STATE, f"{what}: states of {v} x {key_dim} x {value_dim} numbers")
        w = v * value_dim
        n = 2 * key_heads * key_dim + w
        matrix(f"{p}.delta_in", n + w + 2 * v, h, "attention")
        vector(f"{p}.delta.kernel", n * size)
        vector(f"{p}.delta.log_decay", v)
        vector(f"{p}.delta.step_bias", v)
        vector(f"{p}.delta_norm.gain", value_dim)
        matrix(f"{p}.delta_out", h, w, "attention")

    def router(p, experts):
        """The number of experts of a mixture, after its router's tensors."""
        what = f"{p}: experts"
        known(what, experts, EXPERTS)
        n, active = sizes(what, experts, "num_experts num_active")
        check(active <= n <= MAX_EXPERTS, f"{what}: {active} active of {n}")
        softmax, normalized = one_of("scores", experts["scores"], "softmax", "sigmoid") == "softmax", experts.get("normalized", False)
        epsilon = experts.get("epsilon", 0)
        check(epsilon == 0 or (epsilon > 0 and normalized and not softmax), f"{what}: epsilon {epsilon}")
        shared, gate = experts.get("shared", 0), experts.get("shared_gate", False)
        check(0 <= shared < active and (shared > 0 or not gate), f"{what}: {shared} shared")
        matrix(f"{p}.router", n - shared + gate, h, "router", experts.get("router_bias", False))
        if experts.get("selection_bias", False):
            check(not softmax, f"{what}: a selection bias of softmax scores")
            vector(f"{p}.router.selection_bias", n - shared)
        return n

    def mamba2(p, i, mixer):
        what = f"{p}: mamba2"
        known(what, mixer, MAMBA2)
        heads, d, groups, state = sizes(what, mixer, "num_heads head_dim num_groups state_size")
        size = kernel(what, mixer)
        check(heads % groups == 0, f"{what}: {heads} heads in {groups} groups")
        check(heads * d * state <= MAX_STATE, f"{what}: states of {heads} x {d} x {state} numbers")
        least, most = mixer.get("min_step", 0), mixer.get("max_step")
        check(least >= 0 and (most is None or most >= least), f"{what}: steps from {least} to {most}")
        s = heads * d
        n = s + 2 * groups * state
        matrix(f"{p}.mamba_in", s + n + heads, h, "attention", mixer.get("input_bias", False))
        vector(f"{p}.mamba.kernel", n * size)
        if mixer.get("conv_bias", False):
            vector(f"{p}.mamba.bias", n)
        for name in ("log_decay", "step_bias", "skip"):
            vector(f"{p}.mamba.{name}", heads)
        if one_of("norm", mixer.get("norm"), None, "after_gate", "before_gate") is not None:
            vector(f"{p}.mamba_norm.gain", s)
        matrix(f"{p}.mamba_out", h, s, "attention", mixer.get("output_bias", False))

    def mlp(p, network):
        known(f"{p}: mlp", network, MLP)
        sizes(f"{p}: mlp", network, "intermediate_size")
        activation = one_of("activation", network["activation"], "silu", "gelu", "gelu_tanh", "relu2", "clamped_swiglu")
        m, bias, gated, experts = network["intermediate_size"], network.get("bias", False), network.get("gated", True), network.get("experts")
        check(gated or activation != "clamped_swiglu", f"{p}: a clamped SwiGLU without a gate")
        cuts = network.get("gate_cutoff") is not None
        check(not cuts or (gated and experts is None and activation != "clamped_swiglu"), f"{p}: a gate_cutoff of no plain gate")
        n = 1
        if experts is not None:
            n = router(p, experts)
            p += ".experts"
        up = 2 * m if gated else m
        check(n * max(up, h) <= MAX_SIZE, f"{p}: {n} experts of {up} and {h} rows")
        matrix(f"{p}.gate_up" if gated else f"{p}.up", n * up, h, "mlp", bias)
        matrix(f"{p}.down", n * h, m, "mlp", bias)

    matrix("embedding", spec["vocab_size"], h, "embedding")
    if spec.get("learned_positions", False):
        matrix("positions", spec["max_context"], h, "embedding")
    per_layer = spec.get("per_layer_embedding")
    if per_layer is not None:
        known("per_layer_embedding", per_layer, PER_LAYER)
        [size] = sizes("per_layer_embedding", per_layer, "size")
        one_of("activation", per_layer["activation"], "silu", "gelu", "gelu_tanh")
        width = size * len(spec["layers"])
        check(width <= MAX_SIZE, f"per_layer_embedding: rows of {width} numbers")
        matrix("per_layer_embedding", spec["vocab_size"], width, "embedding")
        matrix("per_layer_projection", width, h, "mlp")
        vector("per_layer_norm.gain", size)
    altup, streams = spec.get("altup"), 1
    if altup is not None:
        known("altup", altup, ALTUP)
        [streams] = sizes("altup", altup, "num_streams")
        check(2 <= streams <= 8 and 0 <= altup.get("active", 0) < streams, f"altup: {altup}")
    for s in range(1, streams):
        matrix(f"altup_in.{s}", h, h, "mlp")
    for i, layer in enumerate(spec["layers"]):
        p = f"layers.{i}"
        known(p, layer, LAYER)
        placement = one_of("norm_placement", layer.get("norm_placement", "pre"), "pre", "post", "both")
        residual = one_of("residual", layer.get("residual", "sequential"), "sequential", "parallel", "parallel_shared")
        if altup is not None:
            vector(f"{p}.altup_norm.gain", h)
            vector(f"{p}.altup.router", streams * h)
            vector(f"{p}.altup.prediction", streams ** 3)
            vector(f"{p}.altup.correction", streams ** 2)
            if altup.get("output_scale", False):
                vector(f"{p}.altup.scale", h)
        if placement != "post":
            norm(f"{p}.mixer_norm", h)
        mixers = {"attention": attention, "short_conv": short_conv, "delta_net": delta_net, "mamba2": mamba2}
        kinds = []
        for one in filter(None, (layer["mixer"], layer.get("beside"))):
            check(len(one) == 1, f"{p}: {len(one)} mixers")
            [(kind, mixer)] = one.items()
            mixers[one_of("mixer", kind, *mixers)](p, i, mixer)
            check(kind not in kinds, f"{p}: two mixers of one kind")
            kinds.append(kind)
        if placement != "pre":
            norm(f"{p}.mixer_post_norm", h)
        if layer.get("laurel") is not None:
            [rank] = sizes(p, layer, "laurel")
            check(residual == "sequential" and placement != "post", f"{p}: laurel in a layer that is not sequential with norms before its blocks")
            matrix(f"{p}.laurel_left", rank, h, "attention")
            matrix(f"{p}.laurel_right", h, rank, "attention")
            norm(f"{p}.laurel_norm", h)
        feeds_forward = layer.get("mlp") is not None
        check(feeds_forward or residual == "sequential", f"{p}: no feed-forward network that a mixer could be parallel to")
        if feeds_forward and placement != "post" and residual != "parallel_shared":
            norm(f"{p}.mlp_norm", h)
        if feeds_forward:
            mlp(p, layer["mlp"])
        if feeds_forward and placement != "pre":
            norm(f"{p}.mlp_post_norm", h)
        if per_layer is not None:
            matrix(f"{p}.per_layer_gate", size, h, "mlp")
            matrix(f"{p}.per_layer_output", h, size, "mlp")
            norm(f"{p}.per_layer_post_norm", h)
        check(altup is None or not layer.get("output_scale", False), f"{p}: an output_scale of several residual streams")
        if layer.get("output_scale", False):
            vector(f"{p}.output_scale", 1)
    for s in range(1, streams):
        matrix(f"altup_out.{s}", h, h, "mlp")
    norm("final_norm", h)
    if not spec.get("tied_head", False):
        matrix("head", spec["vocab_size"], h, "head")
    if spec.get("head_bias", False):
        out.append(("head.bias", [spec["vocab_size"]], "vector"))
    return out


# Shards


def read_bytes(folder, name, limit):
    """A file's bytes, and one more than the limit at most."""
    path = (folder / name).resolve()
    check(path.parent == folder.resolve(), f"{name} leads out of the folder")
    check(path.is_file(), f"{name} is not a regular file")
    with open(path, "rb") as file:
        return file.read(limit + 1)


def read_file(folder, entry):
    data = read_bytes(folder, entry["name"], entry["bytes"])
    check(len(data) == entry["bytes"], f"{entry['name']}: not {entry['bytes']} bytes")
    check(hashlib.sha256(data).hexdigest() == entry["sha256"], f"{entry['name']}: another sha256")
    return data


def read_shard(folder, manifest, index):
    """The planes of a shard, each as an array of words without padding, by (tensor, chunk, kind)."""
    file = manifest["shards"][index]
    data = read_file(folder, file)
    header_bytes = 8 + int.from_bytes(data[:8], "little")
    within = header_bytes - 8 <= MAX_HEADER_BYTES and header_bytes <= len(data)
    check(header_bytes % ALIGNMENT == 0 and within, f"{file['name']}: a header of {header_bytes} bytes")
    header = read_json(data[8:header_bytes], None, file["name"])
    header.pop("__metadata__", None)
    entries = load(data)
    planes = {}
    for tensor in manifest["tensors"]:
        for c, chunk in enumerate(tensor["chunks"]):
            for plane in (plane for plane in chunk["planes"] if plane["shard"] == index):
                name = f"{tensor['name']}.{c}.{plane['kind']}"
                check(name in entries, f"{file['name']}: no entry {name}")
                start, end = header.pop(name)["data_offsets"]
                check(header_bytes + start == plane["offset"], f"{name} is at {header_bytes + start}")
                check(end - start == align(plane["bytes"]), f"{name} has {end - start} bytes")
                words = entries[name]
                check(words.dtype == np.uint32 and words.ndim == 1, f"{name} is {words.dtype} {words.shape}")
                planes[tensor["name"], c, plane["kind"]] = words[: plane["bytes"] // 4]
    check(not header, f"{file['name']}: entries of no plane: {sorted(header)}")
    return planes


# Weights


def matrix_shape(tensor):
    shape = tensor["shape"]
    return (shape[0], shape[1]) if len(shape) == 2 else (1, shape[0])


def padded(columns):
    return UNIT * ceil(columns / UNIT)


def groups(columns, group):
    return ceil(padded(columns) / group)


def plane_words(scheme, rows, columns):
    """Kind and number of words of each plane of a chunk, in order."""
    units = rows * padded(columns) // UNIT
    if scheme["kind"] == "f32":
        return [("values", 32 * units)]
    if scheme["kind"] == "f16":
        return [("values", 16 * units)]
    bits, all_groups = scheme["bits"], rows * groups(columns, scheme["group"])
    planes = [("codes", {8: 8, 5: 4, 4: 4, 3: 2}[bits] * units)]
    if bits in (3, 5):
        planes.append(("high_bits", units))
    if scheme.get("scale", "f16") == "e4m4":
        planes.append(("scales", ceil(rows / 4) * groups(columns, scheme["group"])))
    else:
        planes.append(("scales", ceil(all_groups / 2)))
    if scheme.get("offset", "none") == "u4":
        planes.append(("offsets", ceil(all_groups / 8)))
    elif scheme.get("offset", "none") == "f16":
        planes.append(("offsets", ceil(all_groups / 2)))
    if scheme.get("codebook", "uniform") == "learned":
        planes.append(("codebook", 2**bits))
    return planes


def unpack_codes(bits, rows, width, planes):
    """The codes of a chunk, [rows, width]."""
    i = np.arange(rows * width)
    codes = planes["codes"]
    if bits == 8:
        values = codes[i // 4] >> (8 * (i % 4)) & 0xFF
    elif bits in (4, 5):
        values = codes[i // 8] >> (8 * (i % 4) + 4 * (i // 4 % 2)) & 0xF
    else:
        values = codes[i // 16] >> (8 * (i % 4) + 2 * (i // 4 % 4)) & 3
    if bits in (3, 5):
        high = planes["high_bits"][i // UNIT] >> (8 * (i % 4) + i % UNIT // 4) & 1
        values = values + 2 ** (bits - 1) * high
    return values.reshape(rows, width)


def halves(words, n):
    """The first n 16-bit floats of a plane, widened to f32."""
    return words.astype("<u4").view("<f2")[:n].astype(np.float32)


def e4m4(words, rows, per_row):
    """The scales of a chunk, row after row: unsigned 8-bit floats, as f32."""
    b = words.astype("<u4").view("u1").reshape(-1, per_row, 4).swapaxes(1, 2).reshape(-1, per_row)[:rows].astype(np.int32)
    return np.where(b == 0, np.float32(0), np.ldexp(1 + (b % 16).astype(np.float32) / 16, b // 16 - 15).astype(np.float32))


def dequantize(scheme, rows, columns, planes):
    """The weights of a chunk, f32 [rows, columns]. Every operation is one of numpy's on f32 arrays."""
    width = padded(columns)
    if scheme["kind"] == "f32":
        return planes["values"].astype("<u4").view("<f4").reshape(rows, width)[:, :columns]
    if scheme["kind"] == "f16":
        return halves(planes["values"], rows * width).reshape(rows, width)[:, :columns]
    bits, group = scheme["bits"], scheme["group"]
    codes = unpack_codes(bits, rows, width, planes)[:, :columns]
    per_row = groups(columns, group)
    group_of_column = np.arange(columns) // group

    def by_weight(of_groups):
        return of_groups.reshape(rows, per_row)[:, group_of_column]

    n = rows * per_row
    e4m4_scales = scheme.get("scale", "f16") == "e4m4"
    scale = by_weight(e4m4(planes["scales"], rows, per_row) if e4m4_scales else halves(planes["scales"], n))
    if scheme.get("codebook", "uniform") == "learned":
        return scale * planes["codebook"].astype("<u4").view("<f4")[codes]
    code = codes.astype(np.float32)
    offset = scheme.get("offset", "none")
    if offset == "none":
        return scale * (code - np.float32(2 ** (bits - 1)))
    if offset == "u4":
        e = np.arange(n)
        zero = (planes["offsets"][e // 8] >> (4 * (e % 8)) & 15).astype(np.float32)
        return scale * (code - by_weight(zero) * np.float32(2**bits / 16))
    return scale * code + by_weight(halves(planes["offsets"], n))


def read_tensors(folder, manifest):
    """Each tensor's name and weights, f32 [rows, columns]. One chunk of one tensor is unpacked at a time."""
    shards = {}
    last_use = {}
    for t, tensor in enumerate(manifest["tensors"]):
        for plane in (plane for chunk in tensor["chunks"] for plane in chunk["planes"]):
            last_use[plane["shard"]] = t
    for t, tensor in enumerate(manifest["tensors"]):
        _, columns = matrix_shape(tensor)
        parts = []
        for c, chunk in enumerate(tensor["chunks"]):
            for plane in chunk["planes"]:
                if plane["shard"] not in shards:
                    shards[plane["shard"]] = read_shard(folder, manifest, plane["shard"])
            planes = {p["kind"]: shards[p["shard"]][tensor["name"], c, p["kind"]] for p in chunk["planes"]}
            parts.append(dequantize(tensor["scheme"], chunk["rows"], columns, planes))
        weights = np.concatenate(parts)
        check(weights.dtype == np.float32 and weights.size == prod(tensor["shape"]), f"{tensor['name']}: a bug of this reader")
        yield tensor["name"], weights
        for index in [index for index in shards if last_use[index] == t]:
            del shards[index]


def main():
    folder = Path(sys.argv[1])
    try:
        manifest = read_manifest(folder)
        for file in manifest.get("files", []):
            read_file(folder, file)
        hashes = {
            name: hashlib.sha256(np.ascontiguousarray(weights, "<f4").tobytes()).hexdigest()
            for name, weights in read_tensors(folder, manifest)
        }
    except BadPackage as problem:
        sys.exit(f"{folder}: {problem}")
    json.dump(hashes, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
