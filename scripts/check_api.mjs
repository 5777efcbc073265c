#!/usr/bin/env node
// Asks `haikuq serve --api` with OpenAI's own client for JavaScript.
//
//     npm install openai                                in any folder
//     node check_api.mjs NODE HAIKUQ PACKAGE
//
// NODE has the `node_modules`, HAIKUQ is the program, and PACKAGE one that it converted, with a chat template. Whole and streamed answers
// must be equal, and those of eight requests at once must be those of one after the other.

import assert from "node:assert/strict";
import {spawn} from "node:child_process";
import {readFileSync} from "node:fs";
import {createRequire} from "node:module";
import {resolve} from "node:path";
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";

const [node, haikuq, folder] = process.argv.slice(2);
const {default: OpenAI} = await import(pathToFileURL(createRequire(resolve(node, "package.json")).resolve("openai")));
const {version} = JSON.parse(readFileSync(resolve(node, "node_modules/openai/package.json")));

const server = spawn(haikuq, ["serve", folder, "--api", "--port", "0", "--json", "--numerics", "exact"], {stdio: ["ignore", "pipe", "ignore"]});
try {
    const {value: line} = await createInterface(server.stdout)[Symbol.asyncIterator]().next();
    const {api: baseURL, packages: [{name: model}]} = JSON.parse(line);
    const client = new OpenAI({baseURL, apiKey: "none"});
    assert.deepEqual((await client.models.list()).data.map(({id}) => id), [model]);

    const chat = {model, messages: [{role: "user", content: "Tell me a story."}], max_completion_tokens: 24, temperature: 0};
    const whole = await client.chat.completions.create(chat);
    const text = whole.choices[0].message.content;
    let [streamed, usage] = ["", undefined];
    for await (const chunk of await client.chat.completions.create({...chat, stream: true, stream_options: {include_usage: true}})) {
        streamed += chunk.choices[0]?.delta.content ?? "";
        usage ??= chunk.usage;
    }
    assert.equal(streamed, text);
    assert.equal(usage.completion_tokens, 24);
    const runner = client.chat.completions.stream(chat);
    assert.equal(await runner.finalContent(), text);

    const prompts = ["The old house", "Once upon a time", "A dog", "She said", "The sun", "In the park", "Two friends", "My"];
    const write = async (prompt) => (await client.completions.create({model, prompt, max_tokens: 24, temperature: 0})).choices[0].text;
    const alone = [];
    for (const prompt of prompts) alone.push(await write(prompt));
    assert.deepEqual(await Promise.all(prompts.map(write)), alone);
    await assert.rejects(client.chat.completions.create({...chat, logit_bias: {1: 1}}), /logit_bias/);
    console.log(`openai ${version} for JavaScript: models, chats and texts, whole and streamed, ${prompts.length} at once: all as they should be`);
} finally {
    server.kill();
}
