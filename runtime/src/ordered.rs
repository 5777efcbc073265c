//! Maps and sets in order, made entry by entry, and lists by a number.
//!
//! `collect` sorts the entries first. A page downloads that sort again for each type of entry, 4 kB each.

use std::collections::{BTreeMap, BTreeSet};

/// A map of these entries; of several with one key the last stays.
pub(crate) fn map<K: Ord, V>(entries: impl IntoIterator<Item = (K, V)>) -> BTreeMap<K, V> {
    let mut map = BTreeMap::new();
    map.extend(entries);
    map
}

/// A map of these entries, or the first error.
pub(crate) fn try_map<K: Ord, V, E>(entries: impl IntoIterator<Item = Result<(K, V), E>>) -> Result<BTreeMap<K, V>, E> {
    let mut map = BTreeMap::new();
    for entry in entries {
        let (key, value) = entry?;
        map.insert(key, value);
    }
    Ok(map)
}

/// A set of these.
pub(crate) fn set<T: Ord>(members: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    let mut set = BTreeSet::new();
    set.extend(members);
    set
}

/// These by their keys, the smallest first; those with one key stay in turn.
pub(crate) fn by_key<T>(items: Vec<T>, key: impl Fn(&T) -> u64) -> Vec<T> {
    let mut order: Vec<(u64, usize)> = items.iter().map(key).enumerate().map(|(i, key)| (key, i)).collect();
    order.sort_unstable();
    let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
    order.into_iter().filter_map(|(_, i)| items[i].take()).collect()
}

#[cfg(test)]
mod tests {
    use super::by_key;

    #[test]
    fn the_smallest_key_is_first_and_equals_stay_in_turn() {
        let words = vec!["four", "to", "by", "one", ""];
        assert_eq!(by_key(words, |word| word.len() as u64), ["", "to", "by", "one", "four"]);
    }
}
