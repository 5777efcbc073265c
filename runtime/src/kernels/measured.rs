//! [`Measured`]: how long candidates took on a device, as plain data. Where it is kept is the caller's business.
//!
//! Only times are kept, never who won: [`super::choose`] compares those of the candidates that are allowed, so that the same
//! data serve exact and fast numerics.

use super::tables;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A candidate takes the place of the table's choice where that takes more than this many times as long: less is noise.
pub const MARGIN: f64 = 1.1;

/// Times of candidates on one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// [`version`] of the runtime that measured: another one has other kernels.
    pub version: String,
    /// [`Gpu::key`](crate::device::Gpu::key) of the device.
    pub device: String,
    /// What was measured, in the order in which it was.
    pub entries: Vec<Times>,
}

/// Times of the candidates for one shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// The operation.
    pub operation: String,
    /// The shape; see [`Kind::measured_as`](super::candidate::Kind::measured_as).
    pub shape: String,
    /// Microseconds by candidate. None where a candidate failed or there was no time for it: it is not tried again.
    pub microseconds: BTreeMap<String, Option<f64>>,
}

impl Times {
    /// Microseconds that a candidate took, if they are known.
    pub fn of(&self, candidate: &str) -> Option<f64> {
        self.microseconds.get(candidate).copied().flatten().filter(|us| us.is_finite() && *us > 0.0)
    }
}

impl Measured {
    /// Nothing yet, for a device.
    pub fn on(device: String) -> Self {
        Self { version: version(), device, entries: Vec::new() }
    }

    /// Whether these are times of this runtime's candidates on that device.
    pub fn is_of(&self, device: &str) -> bool {
        self.version == version() && self.device == device
    }

    /// Times for a shape.
    pub fn find(&self, operation: &str, shape: &str) -> Option<&Times> {
        self.entries.iter().find(|e| e.operation == operation && e.shape == shape)
    }

    /// Those of a device, from a JSON list of several devices': for pages, which keep one file for all. A broken list has none.
    pub fn in_list(list: &str, device: &str) -> Option<Self> {
        read_list(list).into_iter().find(|m| m.is_of(device))
    }

    /// That list with these times in place of those that it had of the device, at its end; the oldest devices make room.
    pub fn added_to(&self, list: &str) -> String {
        const DEVICES: usize = 8;
        let others = read_list(list).into_iter().filter(|m| m.device != self.device);
        let mut all: Vec<_> = others.chain([self.clone()]).collect();
        all.drain(..all.len().saturating_sub(DEVICES));
        // Text and numbers alone: nothing in them cannot be written.
        serde_json::to_string(&all).unwrap_or_default()
    }

    /// Adds times, in place of those that there were for the shape.
    pub fn add(&mut self, times: Times) {
        self.entries.retain(|e| e.operation != times.operation || e.shape != times.shape);
        self.entries.push(times);
    }
}

fn read_list(list: &str) -> Vec<Measured> {
    serde_json::from_str(list).unwrap_or_default()
}

/// The runtime's version and all its candidates: where either changes, everything is measured again.
pub fn version() -> String {
    let tables = tables::names();
    let names: Vec<_> = tables.iter().map(|(operation, names)| format!("{operation} {}", names.join(" "))).collect();
    format!("{}: {}", env!("CARGO_PKG_VERSION"), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(shape: &str, microseconds: f64) -> Times {
        let microseconds = BTreeMap::from([("matvec".into(), Some(microseconds)), ("matvec_int8".into(), None)]);
        Times { operation: "project".into(), shape: shape.into(), microseconds }
    }

    #[test]
    fn data_come_back_from_json_as_they_were() {
        let mut measured = Measured::on("a device".into());
        measured.add(times("a", 0.1 + 0.2));
        measured.add(times("b", 12.0));
        let text = serde_json::to_string(&measured).unwrap();
        assert_eq!(serde_json::from_str::<Measured>(&text).unwrap(), measured);
        assert!(text.contains(r#""matvec_int8":null"#), "{text}");
    }

    #[test]
    fn a_list_has_each_device_once_and_a_broken_one_has_none() {
        let on = |device: &str, us| {
            let mut measured = Measured::on(device.into());
            measured.add(times("a", us));
            measured
        };
        let mut list = on("first", 1.0).added_to("");
        list = on("second", 2.0).added_to(&list);
        list = on("first", 3.0).added_to(&list);
        assert_eq!(Measured::in_list(&list, "first"), Some(on("first", 3.0)));
        assert_eq!(Measured::in_list(&list, "second"), Some(on("second", 2.0)));
        assert_eq!(Measured::in_list(&list, "third"), None);
        assert_eq!(Measured::in_list(&list[1..], "first"), None);
        for n in 0..8 {
            list = on(&n.to_string(), 1.0).added_to(&list);
        }
        assert_eq!(Measured::in_list(&list, "first"), None, "the list does not grow for ever");
        assert!(Measured::in_list(&list, "0").is_some());
    }

    #[test]
    fn times_are_of_one_device_and_one_set_of_candidates() {
        let measured = Measured::on("a device".into());
        assert!(measured.is_of("a device") && !measured.is_of("another"));
        let older = Measured { version: version().replace("matvec_int8", "matvec_int4"), ..measured };
        assert!(!older.is_of("a device"));
    }

    #[test]
    fn a_shape_has_one_entry_and_times_are_numbers() {
        let mut measured = Measured::on(String::new());
        measured.add(times("a", 1.0));
        measured.add(times("a", 2.0));
        assert_eq!(measured.entries.len(), 1);
        let entry = measured.find("project", "a").unwrap();
        assert_eq!([entry.of("matvec"), entry.of("matvec_int8"), entry.of("matmul")], [Some(2.0), None, None]);
        assert_eq!(times("a", 0.0).of("matvec"), None);
    }
}
