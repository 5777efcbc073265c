#!/usr/bin/env node
// Holds ONNX exports (`haikuq export --format onnx`) against golden outputs, by transformers.js.
//
//     npm install --ignore-scripts @huggingface/transformers                in any folder
//     node export_onnx.mjs NODE GOLDEN FOLDER...
//
// NODE has the `node_modules`. Each FOLDER is an export. Its config says which file transformers.js loads, in which type; nothing is
// told here but that no network is used. The prompts of GOLDEN are continued greedily, by ONNX Runtime's native library and, with
// WASM=1 in the environment, by onnxruntime-web's WebAssembly, which browsers run.

import {readFileSync} from "node:fs";
import {createRequire} from "node:module";
import {basename, dirname, resolve} from "node:path";
import {pathToFileURL} from "node:url";

const [node, golden, ...folders] = process.argv.slice(2);
const require = createRequire(resolve(node, "package.json"));
const version = (name) => JSON.parse(readFileSync(resolve(node, "node_modules", name, "package.json"))).version;

/** The generations of a golden file. */
function generations(path) {
    const bytes = readFileSync(path);
    const header = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE(0))).toString());
    return JSON.parse(header.__metadata__.generations);
}

const {AutoModelForCausalLM, AutoTokenizer, Tensor, env} = await import(
    pathToFileURL(require.resolve("@huggingface/transformers")).href
);
env.allowRemoteModels = false;
console.log(`transformers.js ${version("@huggingface/transformers")}, onnxruntime-node ${version("onnxruntime-node")}`);
let failed = 0;
for (const folder of folders.map((f) => resolve(f))) {
    env.localModelPath = dirname(folder);
    const name = basename(folder);
    const model = await AutoModelForCausalLM.from_pretrained(name);
    const tokenizer = await AutoTokenizer.from_pretrained(name);
    let [same, encoded] = [0, 0];
    const all = generations(golden);
    for (const {prompt, prompt_ids: ids, greedy_ids: expected} of all) {
        const row = (numbers) => new Tensor("int64", BigInt64Array.from(numbers.map(BigInt)), [1, numbers.length]);
        const inputs = {input_ids: row(ids), attention_mask: row(ids.map(() => 1))};
        const output = await model.generate({...inputs, max_new_tokens: expected.length, do_sample: false});
        const found = Array.from(output.data, Number).slice(ids.length);
        same += JSON.stringify(found) === JSON.stringify(expected);
        encoded += JSON.stringify(tokenizer.encode(prompt, {add_special_tokens: false})) === JSON.stringify(ids);
    }
    failed += same !== all.length;
    console.log(`${name}: greedy texts ${same} of ${all.length}, prompts encoded alike ${encoded} of ${all.length}`);
    await model.dispose();
}
process.exit(failed > 0 ? 1 : 0);
