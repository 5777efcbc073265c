//! `haikuq serve --api` as a client of OpenAI's API sees it: over HTTP, from the real program, with real inference.

mod common;
mod support;

use common::convert;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::LazyLock;
use std::time::Duration;
use support::{haikuq, succeed};

/// Numerics in which what runs beside a text changes none of its bits.
const EXACT: [&str; 2] = ["--numerics", "exact"];

/// `golden/haiku-7m`.
static PACKAGE: LazyLock<PathBuf> = LazyLock::new(|| convert("q4-fast"));

/// The package's name, which is the model's.
static NAME: LazyLock<&str> = LazyLock::new(|| PACKAGE.file_name().unwrap().to_str().unwrap());

/// A running server; it ends with the test.
struct Server {
    child: Child,
    api: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start() -> Self {
        let mut command = haikuq();
        command.arg("serve").arg(&*PACKAGE).args(["--api", "--port", "0", "--json"]).args(EXACT);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"));
        Self { child, api: said["api"].as_str().unwrap().into() }
    }

    fn send(&self, path: &str, request: &str) -> (u16, Box<dyn Read>) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        // Clients say that they can unpack; this one cannot, so it says so only for what must not be packed.
        let encodings = if request.contains("\"stream\":true") { "gzip, br" } else { "identity" };
        let response = agent.post(format!("{}/{path}", self.api)).header("accept-encoding", encodings).send(request).unwrap();
        if response.headers().get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
            assert!(!response.headers().contains_key("content-encoding"), "events are to arrive at once");
        }
        (response.status().as_u16(), Box::new(response.into_body().into_reader()))
    }

    fn ask(&self, path: &str, request: &Value) -> Value {
        let (status, body) = self.send(path, &request.to_string());
        let answer: Value = serde_json::from_reader(body).unwrap();
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// The objects of a stream, which ends as streams end.
    fn stream(&self, path: &str, mut request: Value) -> Vec<Value> {
        request["stream"] = true.into();
        let (status, mut body) = self.send(path, &request.to_string());
        let mut text = String::new();
        body.read_to_string(&mut text).unwrap();
        assert_eq!(status, 200, "{text}");
        let mut events: Vec<&str> = text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
        assert_eq!(events.pop(), Some("[DONE]"));
        events.into_iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }

    fn get(&self, path: &str) -> Value {
        let mut response = ureq::get(format!("{}/{path}", self.api)).call().unwrap();
        serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap()
    }
}

fn chat(words: &str) -> Value {
    json!({"model": *NAME, "messages": [{"role": "user", "content": words}], "temperature": 0, "max_tokens": 12})
}

fn completion(prompt: &str) -> Value {
    json!({"model": *NAME, "prompt": prompt, "temperature": 0, "max_tokens": 12})
}

/// What `haikuq run` writes for the same.
fn written(words: &str, args: &[&str]) -> String {
    let mut command = haikuq();
    command.arg("run").arg(&*PACKAGE).arg(words).args(["--greedy", "-n", "12", "--json"]).args(EXACT).args(args);
    let answer: Value = serde_json::from_slice(&succeed(command).stdout).unwrap();
    answer["texts"][0]["text"].as_str().unwrap().to_owned()
}

#[test]
fn answers_are_those_of_the_program_whole_and_streamed() {
    let server = Server::start();
    let models = server.get("models");
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!(*NAME)));
    assert_eq!(server.get(&format!("models/{}", *NAME))["object"], "model");

    let whole = server.ask("chat/completions", &chat("Tell me a story."));
    let choice = &whole["choices"][0];
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(
        choice["message"],
        json!({"role": "assistant", "content": written("Tell me a story.", &["--chat"]), "refusal": null})
    );
    assert_eq!((&choice["finish_reason"], &whole["usage"]["completion_tokens"]), (&json!("length"), &json!(12)));

    let mut request = chat("Tell me a story.");
    request["stream_options"] = json!({"include_usage": true});
    let mut chunks = server.stream("chat/completions", request);
    let usage = chunks.pop().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["total_tokens"]), (&json!([]), &whole["usage"]["total_tokens"]));
    assert_eq!(usage["usage"]["prompt_tokens_details"]["cached_tokens"], whole["usage"]["prompt_tokens"].as_u64().unwrap() - 1);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks.pop().unwrap()["choices"][0]["finish_reason"], "length");
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, choice["message"]["content"].as_str().unwrap());
    assert!(chunks.iter().all(|chunk| chunk["id"] == usage["id"] && chunk["object"] == "chat.completion.chunk"));

    let text = written("The old house", &[]);
    assert_eq!(server.ask("completions", &completion("The old house"))["choices"][0]["text"], json!(text));
    let streamed = server.stream("completions", completion("The old house"));
    assert_eq!(streamed.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect::<String>(), text);
}

#[test]
fn requests_at_once_have_the_answers_that_they_have_alone() {
    let server = Server::start();
    let prompts =
        ["The old house", "Once upon a time", "A dog", "She said", "The sun", "In the park", "Two friends", "My", "Then", "It"];
    let alone: Vec<_> = prompts.map(|prompt| server.ask("completions", &completion(prompt))["choices"].clone()).into();
    let together: Vec<_> = std::thread::scope(|scope| {
        let asked = prompts.map(|prompt| scope.spawn(|| server.ask("completions", &completion(prompt))["choices"].clone()));
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(together, alone);

    // And as the prompts and choices of one request, whose texts have seeds of their own.
    let mut several = completion("");
    (several["prompt"], several["n"], several["temperature"], several["seed"]) =
        (json!(prompts[..2]), 2.into(), json!(1.5), 7.into());
    let answer = server.ask("completions", &several);
    let texts: Vec<_> = answer["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert!(texts.len() == 4 && texts[0] != texts[1], "{texts:?}");
    assert_eq!(server.ask("completions", &several)["choices"], answer["choices"], "a seed gives the same texts again");
    let alone = prompts[..2]
        .iter()
        .map(|prompt| server.ask("completions", &completion(prompt))["usage"]["prompt_tokens"].as_u64().unwrap());
    assert_eq!(answer["usage"]["prompt_tokens"], alone.sum::<u64>());
}

#[test]
fn a_client_that_goes_away_makes_room() {
    let server = Server::start();
    let mut endless = completion("Once upon a time");
    (endless["stream"], endless["max_tokens"]) = (true.into(), 100_000.into());
    // More than fit into a step: the next one waits until one of these is noticed to be gone.
    let streams: Vec<_> = (0..8).map(|_| server.send("completions", &endless.to_string())).collect();
    for (status, mut body) in streams {
        let mut first = [0; 64];
        assert_eq!((status, body.read(&mut first).unwrap() > 0), (200, true));
    }
    assert_eq!(server.ask("completions", &completion("A dog"))["usage"]["completion_tokens"], 12);
}

#[test]
fn the_assistants_words_are_continued_and_stop_texts_end_an_answer() {
    let server = Server::start();
    let mut request = chat("Tell me a story.");
    let whole = server.ask("chat/completions", &request)["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let words: Vec<&str> = whole.split_inclusive(' ').collect();
    let (begun, rest) = (words[..3].concat(), words[3..].concat());
    request["messages"].as_array_mut().unwrap().push(json!({"role": "assistant", "content": begun.trim_end()}));
    let continued = server.ask("chat/completions", &request)["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert!(continued.trim_start().starts_with(rest.trim()), "{continued:?} goes on from {begun:?} as {whole:?} does");

    let mut stopped = chat("Tell me a story.");
    stopped["stop"] = json!([words[2].trim(), "never written"]);
    let answer = server.ask("chat/completions", &stopped);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(whole.starts_with(text) && !text.contains(words[2].trim()), "{text:?}");
}

#[test]
fn answers_keep_to_schemas_and_calls_to_their_tools() {
    let server = Server::start();
    let place = json!({"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "maximum": 9, "minimum": 1}},
        "required": ["city", "days"], "additionalProperties": false});
    let mut request = chat("Where to?");
    (request["max_tokens"], request["temperature"], request["seed"]) = (200.into(), 1.into(), 3.into());
    let is_place = |text: &str| {
        let place: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
        ["Rome", "Oslo"].contains(&place["city"].as_str().unwrap()) && (1..10).contains(&place["days"].as_i64().unwrap())
    };

    let mut formatted = request.clone();
    formatted["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "place", "schema": place}});
    formatted["n"] = 2.into();
    let answer = server.ask("chat/completions", &formatted);
    for choice in answer["choices"].as_array().unwrap() {
        assert!(is_place(choice["message"]["content"].as_str().unwrap()) && choice["finish_reason"] == "stop", "{choice}");
    }

    let function =
        |name: &str, strict: bool| json!({"type": "function", "function": {"name": name, "parameters": place, "strict": strict}});
    request["tools"] = json!([function("weather", true), function("flights", true)]);
    request["tool_choice"] = json!("required");
    let answer = server.ask("chat/completions", &request);
    let choice = &answer["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
    let call = &choice["message"]["tool_calls"][0]["function"];
    assert!(
        ["weather", "flights"].contains(&call["name"].as_str().unwrap()) && is_place(call["arguments"].as_str().unwrap()),
        "{call}"
    );

    request["tool_choice"] = json!({"type": "function", "function": {"name": "flights"}});
    let chunks = server.stream("chat/completions", request.clone());
    let calls: Vec<_> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array()).flatten().collect();
    assert!(calls.len() == 1 && calls[0]["index"] == 0 && calls[0]["function"]["name"] == "flights", "{calls:?}");
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");

    // Its calls are JSON as any text may be, so nothing tells a strict one from text while it is written.
    request["tool_choice"] = json!("auto");
    let (status, body) = server.send("chat/completions", &request.to_string());
    let error: Value = serde_json::from_reader(body).unwrap();
    assert!(status == 400 && error["error"]["message"].as_str().unwrap().contains("strict"), "{error}");
}

#[test]
fn what_is_not_supported_is_refused_by_name_and_neutral_values_pass() {
    let server = Server::start();
    for (path, name, value, why) in [
        ("completions", "logit_bias", json!({"5": 1}), "not supported"),
        ("completions", "presence_penalty", json!(0.5), "other than as 0"),
        ("completions", "echo", json!(true), "other than as false"),
        ("completions", "temprature", json!(1), "is no parameter"),
        ("completions", "temperature", json!("hot"), "is not a number"),
        ("completions", "n", json!(99), "not 1 to 8"),
        ("completions", "stop", json!([""]), "empty text"),
        ("completions", "stream_options", json!({"include_usage": true}), "only with stream"),
        ("completions", "prompt", json!([4_000_000]), "there is no token 4000000"),
        ("completions", "model", json!("gpt-4"), "there is no model"),
        ("chat/completions", "response_format", json!({"type": "xml"}), "response_format"),
        ("chat/completions", "response_format", json!({"type": "json_schema", "json_schema": {"schema": {"if": {}}}}), "\"if\""),
        ("chat/completions", "tool_choice", json!("required"), "there are no tools"),
        ("chat/completions", "tools", json!([{"type": "web_search"}]), "tools[0]"),
        ("chat/completions", "logprobs", json!(true), "other than as false"),
        ("chat/completions", "messages", json!([]), "there must be one"),
        ("chat/completions", "messages", json!([{"role": "user", "content": [{"type": "image_url"}]}]), "messages[0].content"),
        ("chat/completions", "messages", json!([{"role": "user", "content": "word ".repeat(40_000)}]), "the context holds"),
    ] {
        let mut request = if path == "completions" { completion("A dog") } else { chat("Hello") };
        request[name] = value;
        let (status, body) = server.send(path, &request.to_string());
        let error: Value = serde_json::from_reader(body).unwrap();
        let message = error["error"]["message"].as_str().unwrap();
        assert!((400..500).contains(&status) && message.contains(why), "{name}: {status} {message}");
    }
    let (status, body) = server.send("chat/completions", "[1");
    let error: Value = serde_json::from_reader(body).unwrap();
    assert_eq!((status, &error["error"]["type"]), (400, &json!("invalid_request_error")));

    let mut request = chat("Hello");
    for (name, value) in [
        ("logit_bias", json!({})),
        ("presence_penalty", json!(0)),
        ("frequency_penalty", json!(0.0)),
        ("logprobs", json!(false)),
        ("response_format", json!({"type": "text"})),
        ("n", json!(1)),
        ("user", json!("someone")),
        ("tools", json!([])),
        ("stop", Value::Null),
        ("seed", json!(-3)),
        ("parallel_tool_calls", json!(true)),
    ] {
        request[name] = value;
    }
    assert_eq!(server.ask("chat/completions", &request)["usage"]["completion_tokens"], 12);
    // Time for nothing to go wrong afterwards.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(server.get("models")["data"].as_array().map(Vec::len), Some(1));
}
