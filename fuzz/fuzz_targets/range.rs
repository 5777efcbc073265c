//! The Range header, of requests to a server in this process.
//!
//! The first byte of an input says which file is asked for and by which method; the rest is the header's value. An answer in part
//! must be the part that it says it is.

#![cfg_attr(fuzzing, no_main)]

use haikuq_format::Scheme;
use haikuq_fuzz::fixtures::{tiny_package, write};
use haikuq_fuzz::fuzz_target;
use haikuq_fuzz::mutate::Mutator;
use haikuq_fuzz::target::{Outcome, Target, folder};
use haikuq_runtime::package::sha256_hex;
use haikuq_serve::{ServeOptions, ServedPackage, Server, Site};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

/// The files of the package, each with its bytes.
type Files = Vec<(String, Vec<u8>)>;

struct Place {
    address: String,
    files: Files,
    connection: Mutex<Option<BufReader<TcpStream>>>,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let (package, site) = (folder().join("tiny"), folder().join("site"));
    [&package, &site].iter().for_each(|f| std::fs::create_dir_all(f).expect("a folder of the run"));
    let (mut manifest, headers) = tiny_package(Scheme::F32, 1, &["empty.json", "one.json"]);
    let mut files: Files = Vec::new();
    let shard: Vec<u8> =
        (0..manifest.shards[0].bytes as usize).map(|i| headers[0].get(i).copied().unwrap_or((i % 251) as u8)).collect();
    files.push((manifest.shards[0].name.clone(), shard));
    files.push(("empty.json".into(), Vec::new()));
    files.push(("one.json".into(), b"1".to_vec()));
    for entry in manifest.shards.iter_mut().chain(&mut manifest.files) {
        let (_, bytes) = files.iter().find(|f| f.0 == entry.name).expect("a file of the package");
        (entry.bytes, entry.sha256) = (bytes.len() as u64, sha256_hex(bytes));
        write(&package.join(&entry.name), bytes, 0);
    }
    write(&package.join("haikuq.json"), &manifest.to_json(), 0);
    files.push(("haikuq.json".into(), manifest.to_json()));
    write(&site.join("index.html"), b"<!doctype html>", 0);
    let mut options = ServeOptions::new(Site::Folder(site));
    options.port = Some(0);
    options.packages.push(ServedPackage::open(&package).expect("the package"));
    let server = Server::bind(options).expect("a server");
    let address = server.url().trim_start_matches("http://").trim_end_matches('/').to_owned();
    std::thread::spawn(move || server.run(std::future::pending()));
    Place { address, files, connection: Mutex::new(None) }
});

fn seeds() -> Vec<Vec<u8>> {
    let ranges = [
        "bytes=0-1",
        "bytes=5-",
        "bytes=-7",
        "bytes=-0",
        "bytes=7-3",
        "bytes=0-0,-1",
        "bytes=0-99999999999999999999",
        "lines=0-1",
        "bytes=",
        "bytes=-",
        "Bytes= 0-1 ",
        "bytes=1023-1024",
        "bytes=0-1, 2-3",
        "bytes=18446744073709551615-",
        "bytes=\"0\"-1",
    ];
    let all = ranges.iter().flat_map(|r| (0..4).map(move |file: u8| [&[file], r.as_bytes()].concat()));
    all.collect()
}

struct Answer {
    status: u16,
    content_range: Option<String>,
    body: Vec<u8>,
}

fn ask(reader: &mut BufReader<TcpStream>, request: &[u8], has_body: bool) -> Result<Answer, String> {
    let text = |e: std::io::Error| e.to_string();
    reader.get_mut().write_all(request).map_err(text)?;
    let mut line = String::new();
    reader.read_line(&mut line).map_err(text)?;
    let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or("no answer")?;
    let (mut length, mut content_range) = (0, None);
    loop {
        line.clear();
        if reader.read_line(&mut line).map_err(text)? == 0 {
            return Err("the headers end early".into());
        }
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name {
            "content-length" => length = value.parse().map_err(|_| "a length that is none")?,
            "content-range" => content_range = Some(value.to_owned()),
            "transfer-encoding" => return Err("an answer without a length".into()),
            _ => {}
        }
    }
    let mut body = vec![0; if has_body { length } else { 0 }];
    reader.read_exact(&mut body).map_err(text)?;
    Ok(Answer { status, content_range, body })
}

fn run(input: &[u8]) -> Outcome {
    let place = &*PLACE;
    let (first, value) = input.split_first().unwrap_or((&0, &[]));
    let (file, bytes) = &place.files[usize::from(first % 4)];
    let method = if first & 0x80 == 0 { "GET" } else { "HEAD" };
    // Another line would be another header.
    let value: Vec<u8> = value.iter().map(|b| if matches!(b, b'\r' | b'\n' | 0) { b' ' } else { *b }).collect();
    let mut request = format!("{method} /packages/tiny/{file} HTTP/1.1\r\nHost: {}\r\nRange: ", place.address).into_bytes();
    request.extend(&value);
    request.extend(b"\r\n\r\n");

    let mut connection = place.connection.lock().unwrap_or_else(PoisonError::into_inner);
    let mut answer = Err(String::new());
    // A server may have closed a connection that was used before.
    for _ in 0..2 {
        let mut reader = match connection.take() {
            Some(reader) => reader,
            None => {
                let stream = TcpStream::connect(&place.address).map_err(|e| e.to_string())?;
                stream
                    .set_nodelay(true)
                    .and_then(|()| stream.set_read_timeout(Some(Duration::from_secs(5))))
                    .map_err(|e| e.to_string())?;
                BufReader::new(stream)
            }
        };
        answer = ask(&mut reader, &request, method == "GET");
        match &answer {
            Ok(Answer { status: 200..=299 | 416, .. }) => {
                *connection = Some(reader);
                break;
            }
            // After anything else the connection is not used again.
            Ok(_) => break,
            Err(_) => {}
        }
    }
    let Answer { status, content_range, body } = answer?;
    match (status, method) {
        (200, "GET") => assert_eq!(&body, bytes, "the whole file"),
        (206, _) => {
            let range = content_range.as_deref().and_then(|r| r.strip_prefix("bytes ")).expect("a Content-Range");
            let (range, total) = range.split_once('/').expect("a total");
            let (start, end) = range.split_once('-').expect("a range");
            let (start, end): (usize, usize) = (start.parse().expect("a number"), end.parse().expect("a number"));
            assert_eq!(total.parse(), Ok(bytes.len()), "the total");
            assert!(start <= end && end < bytes.len(), "a part of the file: {start} to {end} of {total}");
            if method == "GET" {
                assert_eq!(body, bytes[start..=end], "the part of the file");
            }
        }
        (200 | 400 | 416, _) => {}
        (other, _) => panic!("an answer of status {other} to a range"),
    }
    match status {
        200 | 206 => Ok(format!("{method} {file} {status}")),
        _ => Err(format!("{method} {file} {status}: {}", String::from_utf8_lossy(&body))),
    }
}

fuzz_target!(Target {
    name: "range",
    seeds,
    dictionary: &[
        "bytes",
        "=",
        "-",
        ",",
        "0",
        "1",
        " ",
        "\t",
        "18446744073709551616",
        "9223372036854775808",
        "bytes=0-",
        "items",
        "*"
    ],
    mutate: |input: &mut Vec<u8>, mutator: &mut Mutator<'_>| mutator.bytes(input),
    most_bytes: 512,
    run,
});
