//! The rules for every answer, whatever it is of: security headers, compression, and honest conditional requests.

use super::ranges;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use tower_http::compression::CompressionLayer;

/// `Cache-Control` of content that never changes under its URL.
pub(super) const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// `Cache-Control` of content that is asked for again each time, and sent again only when it changed.
pub(super) const REVALIDATE: &str = "no-cache";

/// Smaller answers fit one packet in any case.
const COMPRESSED_FROM: u64 = 1024;

/// A host that pages may talk to, as an [origin](https://www.rfc-editor.org/rfc/rfc6454): scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Origin {
    type Err = String;

    /// Takes `https://api.example.com` and `http://localhost:8080`, with or without a final slash.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("{why}; an origin is like https://api.example.com or http://localhost:8080"));
        let Ok(uri) = text.parse::<Uri>() else { return wrong("not a URL") };
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return wrong("a scheme or a host is missing");
        };
        if !["http", "https", "ws", "wss"].contains(&scheme) {
            return wrong("the scheme is none of http, https, ws and wss");
        }
        // The header's own syntax has commas, semicolons, quotes and spaces; a wildcard would be no origin.
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        if authority.host().is_empty() || !authority.as_str().chars().all(plain) {
            return wrong("the host has a character that a policy cannot name");
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return wrong("it has a path");
        }
        Ok(Self(format!("{scheme}://{authority}")))
    }
}

/// What requests must have and answers get.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    headers: Arc<[(HeaderName, HeaderValue)]>,
    /// Set where the server listens on a loopback address.
    only_local_names: bool,
}

impl Policy {
    /// For a server that listens at `address`, whose pages may talk to it and to `connect`.
    pub(super) fn new(address: IpAddr, connect: &[Origin]) -> Self {
        let csp = HeaderValue::from_str(&content_security_policy(connect)).expect("origins are visible ASCII");
        let fixed = HeaderValue::from_static;
        Self {
            headers: Arc::new([
                (header::CONTENT_SECURITY_POLICY, csp),
                (header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff")),
                (header::REFERRER_POLICY, fixed("no-referrer")),
                (HeaderName::from_static("cross-origin-opener-policy"), fixed("same-origin")),
                (HeaderName::from_static("cross-origin-resource-policy"), fixed("same-origin")),
            ]),
            only_local_names: address.is_loopback(),
        }
    }
}

/// Nothing but the server's own files runs, nothing but the server and `connect` is talked to, and no other site frames
/// the pages. Model text that slips through as markup can therefore do nothing.
fn content_security_policy(connect: &[Origin]) -> String {
    let connect: String = connect.iter().map(|origin| format!(" {origin}")).collect();
    format!(
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data: blob:; \
         connect-src 'self'{connect}; worker-src 'self' blob:; object-src 'none'; base-uri 'none'; \
         frame-ancestors 'none'; form-action 'none'"
    )
}

/// Wraps all routes of a server.
pub(super) fn apply(router: Router, policy: Policy) -> Router {
    router
        .layer(from_fn(ranges::honour_range))
        .layer(from_fn(honour_if_range))
        .layer(CompressionLayer::new().compress_when(worth_compressing))
        .layer(from_fn_with_state(policy, guard))
}

/// An answer that is a sentence.
pub fn text(status: StatusCode, message: impl fmt::Display) -> Response {
    (status, [(header::CACHE_CONTROL, "no-store")], format!("{message}\n")).into_response()
}

async fn guard(State(policy): State<Policy>, request: Request, next: Next) -> Response {
    let mut response = match host(&request) {
        // Another site's name may be made to point here (DNS rebinding); its pages would then be of our origin.
        Ok(host) if policy.only_local_names && !is_local_name(&host) => {
            let host = shown(&host);
            text(StatusCode::FORBIDDEN, format_args!("this server does not answer for {host:?}, only for localhost"))
        }
        Err(why) => text(StatusCode::BAD_REQUEST, why),
        Ok(_) => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in policy.headers.iter() {
        headers.insert(name, value.clone());
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static(REVALIDATE));
    say_charset(headers);
    weaken_etag(headers);
    response
}

/// The host that a request asks for, without its port. A request that a proxy before this server may read in another way is
/// refused ([RFC 9112](https://www.rfc-editor.org/rfc/rfc9112#section-3.2)).
fn host(request: &Request) -> Result<String, &'static str> {
    let mut lines = request.headers().get_all(header::HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err("a request has one Host header, not several");
    }
    let authority = match (request.uri().authority(), line) {
        (Some(authority), _) => authority.clone(),
        (None, Some(line)) => {
            let authority = line.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
            authority.ok_or("the Host header is no name of a host")?
        }
        (None, None) => return Err("a request needs a Host header"),
    };
    if authority.as_str().contains('@') {
        return Err("the Host header is no name of a host");
    }
    Ok(authority.host().to_ascii_lowercase())
}

/// A name as a message shows it.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(200).collect()
}

/// Names that only ever mean this machine: addresses of the loopback interface, and `localhost` with all its subdomains
/// ([RFC 6761](https://www.rfc-editor.org/rfc/rfc6761#section-6.3)).
fn is_local_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let address = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The site's and the packages' texts are all UTF-8.
fn say_charset(headers: &mut HeaderMap) {
    let Some(kind) = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()) else { return };
    if kind.starts_with("text/") && !kind.contains("charset") {
        let with_charset = HeaderValue::from_str(&format!("{kind}; charset=utf-8")).expect("a content type is visible ASCII");
        headers.insert(header::CONTENT_TYPE, with_charset);
    }
}

/// A strong tag promises the same bytes, but compression on the way made others of them.
fn weaken_etag(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONTENT_ENCODING) {
        return;
    }
    let Some(tag) = headers.get(header::ETAG).and_then(|v| v.to_str().ok()) else { return };
    if tag.starts_with('"') {
        let weak = HeaderValue::from_str(&format!("W/{tag}")).expect("a tag is visible ASCII");
        headers.insert(header::ETAG, weak);
    }
}

/// `If-Range` ([RFC 9110](https://www.rfc-editor.org/rfc/rfc9110#section-13.1.5)), which tower-http does not look at: a
/// download that goes on after a break gets the rest only if the file is still the one it began with, else all of it.
async fn honour_if_range(mut request: Request, next: Next) -> Response {
    let Some(validator) = request.headers_mut().remove(header::IF_RANGE) else { return next.run(request).await };
    if !request.headers().contains_key(header::RANGE) {
        return next.run(request).await;
    }
    let mut whole = ranges::repeated(&request);
    whole.headers_mut().remove(header::RANGE);

    let response = next.clone().run(request).await;
    if holds(&validator, &response) { response } else { next.run(whole).await }
}

/// Whether a range may be answered by `response`, which answers it, given the client's tag or date. No tag is weak here:
/// compression comes later, and leaves ranges alone.
fn holds(validator: &HeaderValue, response: &Response) -> bool {
    let same = |name| response.headers().get(name) == Some(validator);
    let ranged = [StatusCode::PARTIAL_CONTENT, StatusCode::RANGE_NOT_SATISFIABLE].contains(&response.status());
    !ranged || same(header::ETAG) || same(header::LAST_MODIFIED)
}

/// Text, JSON, code and wasm; weights are as good as random, and images are compressed already. Events are to arrive at once, not when
/// there are enough of them for a block.
fn worth_compressing(status: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    const KINDS: [&str; 5] = ["text/", "application/json", "application/javascript", "application/wasm", "image/svg+xml"];
    let value = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let kind = value(header::CONTENT_TYPE).unwrap_or_default();
    let length = value(header::CONTENT_LENGTH).and_then(|n| n.parse().ok());
    status == StatusCode::OK
        && !kind.starts_with("text/event-stream")
        && length.is_none_or(|n: u64| n >= COMPRESSED_FROM)
        && (KINDS.iter().any(|k| kind.starts_with(k)) || kind.starts_with("application/manifest+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port_and_nothing_else() {
        for (given, meant) in [
            ("https://api.example.com", "https://api.example.com"),
            ("http://localhost:8080/", "http://localhost:8080"),
            ("ws://[::1]:9", "ws://[::1]:9"),
        ] {
            assert_eq!(given.parse::<Origin>().unwrap().to_string(), meant);
        }
        for wrong in [
            "api.example.com",
            "https://",
            "ftp://example.com",
            "https://example.com/v1",
            "https://example.com?x",
            "https://a@example.com",
            "https://*.example.com",
            "https://example.com; script-src *",
            "https://a.com,https://b.com",
            "",
        ] {
            assert!(wrong.parse::<Origin>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn origins_are_added_to_connect_src_alone() {
        let plain = content_security_policy(&[]);
        let more = content_security_policy(&["https://a.example".parse().unwrap(), "http://b.example:1".parse().unwrap()]);
        assert_eq!(more, plain.replace("connect-src 'self'", "connect-src 'self' https://a.example http://b.example:1"));
        assert_ne!(more, plain);
    }

    #[test]
    fn only_names_of_this_machine_are_local() {
        for local in ["localhost", "localhost.", "app.localhost", "127.0.0.1", "127.8.9.1", "[::1]"] {
            assert!(is_local_name(local), "{local}");
        }
        for other in ["example.com", "localhost.example.com", "notlocalhost", "127.0.0.1.example.com", "10.0.0.1", "[::2]", ""] {
            assert!(!is_local_name(other), "{other}");
        }
    }
}
