//! From what a browser calls itself to what people call it.

/// Characters kept of what a page says about itself.
const LONGEST: usize = 200;

/// Name and version, such as `Chrome 156` or `Safari 26.1`; the whole user agent string where it is none that is known.
pub(super) fn browser(user_agent: &str) -> String {
    // Derived browsers name what they derive from as well: the more special ones go first.
    const NAMES: [(&str, &str); 7] = [
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("SamsungBrowser/", "Samsung Internet"),
        ("Firefox/", "Firefox"),
        ("HeadlessChrome/", "Chrome"),
        ("Chrome/", "Chrome"),
        ("Version/", "Safari"),
    ];
    for (key, name) in NAMES {
        let Some((_, rest)) = user_agent.split_once(key) else { continue };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        // Browsers fill what they keep to themselves with zeros.
        let mut version = rest[..end].trim_end_matches('.');
        while let Some(shorter) = version.strip_suffix(".0") {
            version = shorter;
        }
        return format!("{name} {version}");
    }
    printable(user_agent)
}

/// A page's words without control characters, which would act on a terminal, and not without end.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_called_by_their_names() {
        let webkit = "AppleWebKit/537.36 (KHTML, like Gecko)";
        for (agent, name) in [
            (format!("Mozilla/5.0 (X11; Linux x86_64) {webkit} Chrome/156.0.0.0 Safari/537.36"), "Chrome 156"),
            (
                format!("Mozilla/5.0 (X11; Linux x86_64) {webkit} HeadlessChrome/156.0.7712.3 Safari/537.36"),
                "Chrome 156.0.7712.3",
            ),
            (format!("Mozilla/5.0 (Windows NT 10.0) {webkit} Chrome/156.0.0.0 Safari/537.36 Edg/156.0.0.0"), "Edge 156"),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0".into(), "Firefox 150"),
            (
                "Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Safari/605.1.15".into(),
                "Safari 26.1",
            ),
            ("curl\u{1b}[31m/8".into(), "curl[31m/8"),
        ] {
            assert_eq!(browser(&agent), name);
        }
        assert_eq!(printable(&"x".repeat(1000)).len(), LONGEST);
    }
}
