//! Ranges as [RFC 9110](https://www.rfc-editor.org/rfc/rfc9110#section-14) has them, where tower-http differs.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

/// Positions beyond this are beyond every file.
const FAR: u64 = 1 << 60;

/// Brings the range that a request asks for into the form that tower-http understands. It ignores units other than bytes,
/// ranges of other methods than GET, and text that is no range, so that the answer is the whole. The last `n` bytes of a
/// shorter file are all of it. An empty file has no bytes to ask for.
pub(super) async fn honour_range(mut request: Request, next: Next) -> Response {
    let wanted = wanted(request.method(), request.headers());
    request.headers_mut().remove(header::RANGE);
    let Some(wanted) = wanted else { return next.run(request).await };
    let all = wanted.starts_with("bytes=-").then(|| with_range(&request, "bytes=0-"));
    let first = with_range(&request, &wanted);
    let response = next.clone().run(first).await;
    // tower-http answers for an empty file that it sends `bytes 0-0/0`.
    let response = if is_of_nothing(&response) { unsatisfiable(response) } else { response };
    match all {
        Some(all) if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && wanted != "bytes=-0" => {
            let length = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok()?.strip_prefix("bytes */"));
            if length.is_some_and(|length| length != "0") { next.run(all).await } else { response }
        }
        _ => response,
    }
}

/// Whether a response is a part of an empty file.
fn is_of_nothing(response: &Response) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT && range.is_some_and(|range| range.ends_with("/0"))
}

/// That a response about an empty file has nothing of what is asked for.
fn unsatisfiable(mut response: Response) -> Response {
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    response.headers_mut().insert(header::CONTENT_RANGE, HeaderValue::from_static("bytes */0"));
    response
}

/// A request for the same without a body.
pub(super) fn repeated(request: &Request) -> Request {
    let mut again = Request::new(Body::empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    *again.extensions_mut() = request.extensions().clone();
    again
}

fn with_range(request: &Request, range: &str) -> Request {
    let mut request = repeated(request);
    if let Ok(range) = HeaderValue::from_str(range) {
        request.headers_mut().insert(header::RANGE, range);
    }
    request
}

/// The one range of bytes that is asked for. Several are ignored, as every client must expect.
fn wanted(method: &Method, headers: &HeaderMap) -> Option<String> {
    let mut lines = headers.get_all(header::RANGE).iter();
    let line = lines.next().filter(|_| method == Method::GET && lines.next().is_none())?.to_str().ok()?;
    let (unit, set) = line.split_once('=')?;
    let (first, last) = set.trim_matches([' ', '\t']).split_once('-')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !unit.eq_ignore_ascii_case("bytes") || !digits(first) || !digits(last) || (first.is_empty() && last.is_empty()) {
        return None;
    }
    // Numbers that no integer holds are only larger than any file.
    let position = |text: &str| match text {
        "" => String::new(),
        digits => digits.parse().unwrap_or(FAR).min(FAR).to_string(),
    };
    Some(format!("bytes={}-{}", position(first), position(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_bytes_of_get_and_in_numbers() {
        let of = |method: Method, ranges: &[&'static str]| {
            let headers = ranges.iter().map(|r| (header::RANGE, HeaderValue::from_static(r)));
            let mut all = HeaderMap::new();
            headers.for_each(|(name, value)| {
                all.append(name, value);
            });
            wanted(&method, &all)
        };
        for (given, meant) in [
            ("bytes=0-1", "bytes=0-1"),
            ("Bytes= 5- ", "bytes=5-"),
            ("bytes=-7", "bytes=-7"),
            ("bytes=0-99999999999999999999999999", "bytes=0-1152921504606846976"),
            ("bytes=7-3", "bytes=7-3"),
        ] {
            assert_eq!(of(Method::GET, &[given]).as_deref(), Some(meant));
            assert_eq!(of(Method::HEAD, &[given]), None);
        }
        for ignored in ["lines=0-1", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=0-1,5-6", "bytes=1", "bytes=+1-2", ""] {
            assert_eq!(of(Method::GET, &[ignored]), None, "{ignored}");
        }
        assert_eq!(of(Method::GET, &["bytes=0-1", "bytes=2-3"]), None);
    }
}
