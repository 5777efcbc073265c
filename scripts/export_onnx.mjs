#!/usr/bin/env node
// Holds ONNX exports (`haikuq export --format onnx`) against golden outputs, by transformers.js.
//
//     npm install --ignore-scripts @huggingface/transformers                in any folder
//     node export_onnx.mjs NODE GOLDEN FOLDER...
//     CHROMIUM=/usr/bin/chromium node export_onnx.mjs NODE GOLDEN FOLDER...
//
// NODE has the `node_modules`. Each FOLDER is an export. Its config says which file transformers.js loads and how many parts lie beside
// it; the caller names the folder alone. The prompts of GOLDEN, a file of `haikuq golden`, are continued greedily: by ONNX Runtime's
// native library, or in Chromium by its WebAssembly, or by WebGPU with DEVICE=webgpu. transformers.js takes the file of WebAssembly that
// has both, and that one has no GatherBlockQuantized for processors; so without WebGPU the plain file is named here.

import {spawn} from "node:child_process";
import {mkdtempSync, readFileSync, rmSync} from "node:fs";
import {createServer} from "node:http";
import {createRequire} from "node:module";
import {tmpdir} from "node:os";
import {basename, dirname, extname, join, resolve, sep} from "node:path";
import {pathToFileURL} from "node:url";

const [node, golden, ...folders] = process.argv.slice(2);
const version = (name) => JSON.parse(readFileSync(resolve(node, "node_modules", name, "package.json"))).version;

/** The generations of a golden file. */
function generations(path) {
    const bytes = readFileSync(path);
    const header = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE(0))).toString());
    return JSON.parse(header.__metadata__.generations);
}

/** Continues prompts by transformers.js: how many texts are those expected, and how many prompts have the same ids. Runs in both. */
async function measure({AutoModelForCausalLM, AutoTokenizer, Tensor}, name, all, device) {
    const model = await AutoModelForCausalLM.from_pretrained(name, device ? {device} : {});
    const tokenizer = await AutoTokenizer.from_pretrained(name);
    let [same, encoded] = [0, 0];
    for (const {prompt, prompt_ids: ids, greedy_ids: expected} of all) {
        const row = (numbers) => new Tensor("int64", BigInt64Array.from(numbers.map(BigInt)), [1, numbers.length]);
        const inputs = {input_ids: row(ids), attention_mask: row(ids.map(() => 1))};
        const output = await model.generate({...inputs, max_new_tokens: expected.length, do_sample: false});
        const found = Array.from(output.data, Number).slice(ids.length);
        same += JSON.stringify(found) === JSON.stringify(expected);
        encoded += JSON.stringify(tokenizer.encode(prompt, {add_special_tokens: false})) === JSON.stringify(ids);
    }
    await model.dispose();
    return [same, encoded];
}

/** The same in Chromium, by a page that this program serves with models and libraries. */
async function inChromium(names, all, device) {
    const page = `<!doctype html><meta charset="utf-8"><script type="module">
        const answer = (body) => fetch("/answer", {method: "POST", body: JSON.stringify(body)});
        try {
            const library = await import("/modules/@huggingface/transformers/dist/transformers.js");
            const {env} = library;
            Object.assign(env, {allowLocalModels: true, allowRemoteModels: false, localModelPath: "/models/", useBrowserCache: false});
            const at = location.origin + "/modules/onnxruntime-web/dist/ort-wasm-simd-threaded${device === "webgpu" ? ".asyncify" : ""}";
            env.backends.onnx.wasm.wasmPaths = {mjs: at + ".mjs", wasm: at + ".wasm"};
            env.backends.onnx.wasm.numThreads = 1;
            const measure = ${measure};
            const found = [];
            for (const name of ${JSON.stringify(names)}) found.push(await measure(library, name, ${JSON.stringify(all)}, ${JSON.stringify(device)}));
            await answer({found, agent: navigator.userAgent});
        } catch (error) {
            await answer({error: String(error?.stack ?? error)});
        }
    </script>`;
    const types = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm", ".json": "application/json"};
    const roots = {modules: resolve(node, "node_modules"), ...Object.fromEntries(folders.map((f) => [basename(resolve(f)), resolve(f)]))};
    let told;
    const answer = new Promise((done) => (told = done));
    const server = createServer((request, response) => {
        const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
        if (path === "/") return response.writeHead(200, {"content-type": "text/html"}).end(page);
        if (path === "/answer") {
            let body = "";
            request.on("data", (part) => (body += part)).on("end", () => (response.end(), told(JSON.parse(body))));
            return;
        }
        const [root, ...rest] = path.replace(/^\/models\//, "/").slice(1).split("/");
        const file = join(roots[root] ?? "", ...rest);
        try {
            if (!roots[root] || !file.startsWith(roots[root] + sep)) throw new Error(path);
            const bytes = readFileSync(file);
            const headers = {"content-type": types[extname(file)] ?? "application/octet-stream", "content-length": bytes.length};
            response.writeHead(200, headers).end(request.method === "HEAD" ? undefined : bytes);
        } catch {
            response.writeHead(404).end();
        }
    });
    await new Promise((done) => server.listen(0, "127.0.0.1", done));
    const profile = mkdtempSync(join(tmpdir(), "export-onnx-"));
    const gpu = device === "webgpu" ? ["--enable-unsafe-webgpu"] : [];
    const flags = ["--headless=new", "--no-sandbox", "--no-first-run", `--user-data-dir=${profile}`, ...gpu];
    const browser = spawn(process.env.CHROMIUM, [...flags, `http://127.0.0.1:${server.address().port}/`], {stdio: "ignore"});
    const ended = new Promise((done) => browser.on("exit", done));
    const {found, agent, error} = await Promise.race([answer, ended.then((code) => ({error: `Chromium ended with ${code}`}))]);
    browser.kill();
    await ended;
    server.close();
    rmSync(profile, {recursive: true, force: true, maxRetries: 5});
    if (error) throw new Error(error);
    console.log(`${agent.match(/Chrome\/\S+/)?.[0]}, onnxruntime-web ${version("onnxruntime-web")} (${device})`);
    return found;
}

const all = generations(golden);
const names = folders.map((folder) => basename(resolve(folder)));
console.log(`transformers.js ${version("@huggingface/transformers")}`);
const found = [];
if (process.env.CHROMIUM) {
    found.push(...(await inChromium(names, all, process.env.DEVICE ?? "wasm")));
} else {
    const require = createRequire(resolve(node, "package.json"));
    const library = await import(pathToFileURL(require.resolve("@huggingface/transformers")).href);
    library.env.allowRemoteModels = false;
    console.log(`onnxruntime-node ${version("onnxruntime-node")}`);
    for (const folder of folders.map((f) => resolve(f))) {
        library.env.localModelPath = dirname(folder);
        found.push(await measure(library, basename(folder), all));
    }
}
found.forEach(([same, encoded], i) =>
    console.log(`${names[i]}: greedy texts ${same} of ${all.length}, prompts encoded alike ${encoded} of ${all.length}`)
);
process.exit(found.every(([same]) => same === all.length) ? 0 : 1);
