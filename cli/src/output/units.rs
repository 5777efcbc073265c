//! Sizes as people write them: `32MiB` in, `1.5 GiB` out.

/// Reads a size in bytes: `32MiB`, `500 MB`, `1g`, `4096`. KiB, MiB and GiB are powers of 1024, as are bare k, m and
/// g; KB, MB and GB are powers of 1000.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1_048_576.0,
        "g" | "gib" => 1_073_741_824.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        other => return Err(format!("unknown unit {other:?}; write KiB, MiB or GiB")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no size; write one such as 32MiB"))?;
    let bytes = number * factor;
    if bytes >= 1e18 { Err(format!("{text} is too large")) } else { Ok(bytes as u64) }
}

/// A size for people: `512 B`, `4.1 MiB`.
pub fn human_bytes(bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|u| bytes >= u.1) {
        Some((unit, size)) => format!("{:.1} {unit}", bytes as f64 / *size as f64),
        None => format!("{bytes} B"),
    }
}

/// A count for people: `7.3 M`.
pub fn human_count(count: u64) -> String {
    let units = [("B", 1e9), ("M", 1e6), ("k", 1e3)];
    match units.iter().find(|u| count as f64 >= u.1) {
        Some((unit, size)) => format!("{:.1} {unit}", count as f64 / size),
        None => count.to_string(),
    }
}

/// A number of things: `1 shard`, `70 shards`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A time as people say it: `40 s`, `12 min`, `2.5 h`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        ..100.0 => format!("{seconds:.0} s"),
        ..6000.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [("32MiB", 32 << 20), ("1.5 kib", 1536), ("4096", 4096), ("2g", 2 << 30), ("1 MB", 1_000_000)] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "3 apples", "-1", "1e30", "99999999999GiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert_eq!(human_bytes(33_554_432), "32.0 MiB");
    }

    #[test]
    fn times_are_said_in_units_that_fit() {
        for (seconds, text) in [(0.4, "0 s"), (59.6, "60 s"), (130.0, "2 min"), (5400.0, "90 min"), (9000.0, "2.5 h")] {
            assert_eq!(duration(seconds), text);
        }
    }
}
