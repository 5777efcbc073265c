#!/usr/bin/env node
// Holds GGUF files (`haikuq export --format gguf`) against golden outputs, by llama.cpp.
//
//     npm install node-llama-cpp                       in any folder
//     node export_gguf.mjs FOLDER GOLDEN FILE.gguf...
//
// FOLDER has the `node_modules`. GOLDEN is what `haikuq golden` writes: of a GGUF file itself, that is what our reference says about the
// same numbers; of the checkpoint, what the file loses. llama.cpp runs the golden file's windows on the processor, with an f32 cache.
// KL is over the kept tokens of each position plus one bucket for the rest. WINDOWS and CONTEXT, from the environment, take fewer.

import {readFileSync, statSync} from "node:fs";
import {createRequire} from "node:module";
import {basename, resolve} from "node:path";
import {pathToFileURL} from "node:url";

const [folder, golden, ...files] = process.argv.slice(2);
const require = createRequire(resolve(folder, "package.json"));
const {getLlama} = await import(pathToFileURL(require.resolve("node-llama-cpp")).href);

/** The tensors of a safetensors file. */
function tensors(path) {
    const bytes = readFileSync(path);
    const length = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.subarray(8, 8 + length).toString());
    const data = bytes.buffer.slice(bytes.byteOffset + 8 + length, bytes.byteOffset + bytes.length);
    const views = {U16: Uint16Array, I64: BigInt64Array, F32: Float32Array};
    const view = ({dtype, shape, data_offsets: [begin, end]}) => ({shape, numbers: Array.from(new views[dtype](data.slice(begin, end)), Number)});
    return Object.fromEntries(Object.entries(header).filter(([name]) => name !== "__metadata__").map(([name, t]) => [name, view(t)]));
}

const {input_ids: ids, top_ids: topIds, top_logits: topLogits, logsumexp} = tensors(golden);
const [allWindows, allContext] = ids.shape;
const windows = Math.min(allWindows, Number(process.env.WINDOWS ?? allWindows));
const context = Math.min(allContext, Number(process.env.CONTEXT ?? allContext));
const top = topIds.shape[2];

const {version} = JSON.parse(readFileSync(resolve(folder, "node_modules/node-llama-cpp/package.json")));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
console.log(`llama.cpp ${llama.llamaCppRelease.release}, node-llama-cpp ${version}`);
for (const file of files) {
    const model = await llama.loadModel({modelPath: resolve(file)});
    const [sum, positions, same] = await measure(model);
    console.log(
        `${basename(file).padEnd(28)} ${statSync(file).size} bytes  KL ${(sum / positions).toExponential(3)}  ` +
            `same top token ${((100 * same) / positions).toFixed(2)} %  ${positions} positions`
    );
    await model.dispose();
}

/** Sum of KL, positions, and positions whose likeliest token is the same. */
async function measure(model) {
    const session = await model.createContext({contextSize: context + 8, batchSize: context, experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"});
    let [sum, count, same] = [0, 0, 0];
    const sequence = session.getSequence();
    for (let w = 0; w < windows; w++) {
        await sequence.clearHistory();
        const options = {temperature: 1, topK: 0, topP: 1, minP: 0};
        const input = [];
        for (let t = 0; t < context; t++) {
            input.push([ids.numbers[w * allContext + t], {generateNext: {probabilities: true, options}}]);
        }
        const output = await sequence.controlledEvaluate(input);
        for (let t = 0; t < context; t++) {
            const probabilities = output[t].next.probabilities;
            const at = w * allContext + t;
            let [kl, rest, otherRest] = [0, 1, 1];
            for (let k = 0; k < top; k++) {
                const p = Math.exp(topLogits.numbers[at * top + k] - logsumexp.numbers[at]);
                const q = probabilities.get(topIds.numbers[at * top + k]) ?? 0;
                kl += p * Math.log(p / Math.max(q, 1e-30));
                rest -= p;
                otherRest -= q;
            }
            if (rest > 1e-6) kl += rest * Math.log(rest / Math.max(otherRest, 1e-9));
            const [best] = [...probabilities].reduce((a, b) => (b[1] > a[1] ? b : a));
            sum += kl;
            count += 1;
            same += best === topIds.numbers[at * top];
        }
    }
    await session.dispose();
    return [sum, count, same];
}
process.exit(0);
