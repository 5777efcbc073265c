//! Stop strings over a stream of text: generation ends as soon as the text contains one, and none of it is shown.

/// Looks for stop strings in text that arrives in pieces.
///
/// Text that could still turn out to be the start of a stop string is held back until it is clear that it is not.
/// Of several stop strings, the one that is complete first ends the text, and of those complete at the same moment the
/// longest. How the text was cut into pieces makes no difference.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    found: Option<usize>,
}

impl StopStrings {
    /// Looks for each of `stops`; empty ones are never found.
    pub fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { stops: stops.into_iter().map(Into::into).collect(), held: String::new(), found: None }
    }

    /// Takes the next piece of text and gives what can be shown now, which may be nothing. After a stop string was
    /// found, nothing is.
    pub fn push(&mut self, piece: &str) -> String {
        if self.found.is_some() {
            return String::new();
        }
        self.held.push_str(piece);
        if let Some((start, stop)) = self.find() {
            self.found = Some(stop);
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let rest = self.held.split_off(self.undecided_from());
        std::mem::replace(&mut self.held, rest)
    }

    /// Whether a stop string was found.
    pub fn stopped(&self) -> bool {
        self.found.is_some()
    }

    /// Index of the stop string that was found, in the order in which they were given.
    pub fn found(&self) -> Option<usize> {
        self.found
    }

    /// The text that is still held back, now that nothing follows.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Start and index of the stop string that is complete first.
    fn find(&self) -> Option<(usize, usize)> {
        let stops = self.stops.iter().enumerate().filter(|(_, s)| !s.is_empty());
        let complete = stops.filter_map(|(i, s)| self.held.find(s.as_str()).map(|start| (start + s.len(), start, i)));
        complete.min().map(|(_, start, i)| (start, i))
    }

    /// Where the longest end of the held text begins that is the start of a stop string.
    fn undecided_from(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        (from..self.held.len())
            .filter(|&at| self.held.is_char_boundary(at))
            .find(|&at| self.stops.iter().any(|s| s.starts_with(&self.held[at..])))
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<usize>) {
        let mut stream = StopStrings::new(stops.iter().copied());
        let mut shown: Vec<String> = Vec::new();
        for piece in pieces {
            shown.push(stream.push(piece));
            if stream.stopped() {
                assert_eq!(stream.push("more") + &stream.finish(), "");
                return (shown, stream.found());
            }
        }
        shown.push(stream.finish());
        (shown, None)
    }

    #[test]
    fn a_stop_string_across_pieces_is_never_shown_in_part() {
        assert_eq!(
            run(&["\nUser:"], &["Hi", "\nUs", "er", ": no"]),
            (vec!["Hi".into(), "".into(), "".into(), "".into()], Some(0))
        );
    }

    #[test]
    fn what_turns_out_to_be_no_stop_string_is_shown() {
        assert_eq!(
            run(&["abc"], &["xa", "b", "d", "a"]),
            (vec!["x".into(), "".into(), "abd".into(), "".into(), "a".into()], None)
        );
    }

    #[test]
    fn without_stop_strings_nothing_is_held_back() {
        assert_eq!(run(&[], &["a", "b"]), (vec!["a".into(), "b".into(), "".into()], None));
        assert_eq!(run(&[""], &["a", "b"]), (vec!["a".into(), "b".into(), "".into()], None));
    }

    #[test]
    fn the_stop_string_that_is_complete_first_ends_the_text() {
        assert_eq!(run(&["abcd", "bc"], &["xab", "cd"]), (vec!["x".into(), "a".into()], Some(1)));
        assert_eq!(run(&["bc", "abc"], &["xabc"]), (vec!["x".into()], Some(1)), "the longest of those that end together");
    }

    #[test]
    fn a_stop_string_may_repeat_itself() {
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]).0.concat(), "a");
    }

    /// The definition, character by character over the whole text.
    fn naive(stops: &[String], text: &str) -> (String, Option<usize>) {
        for end in (0..=text.len()).filter(|e| text.is_char_boundary(*e)) {
            let complete = stops.iter().enumerate().filter(|(_, s)| !s.is_empty() && text[..end].ends_with(s.as_str()));
            if let Some((i, s)) = complete.max_by_key(|(i, s)| (s.len(), usize::MAX - i)) {
                return (text[..end - s.len()].into(), Some(i));
            }
        }
        (text.into(), None)
    }

    proptest! {
        #[test]
        fn any_cut_of_the_text_gives_what_a_search_of_the_whole_gives(
            stops in proptest::collection::vec("[abé]{0,4}", 0..4),
            pieces in proptest::collection::vec("[abé😀]{0,5}", 0..8),
        ) {
            let (expected, expected_stop) = naive(&stops, &pieces.concat());
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (shown, stop) = run(&stops, &pieces);
            prop_assert_eq!((shown.concat(), stop), (expected, expected_stop));
        }
    }
}
