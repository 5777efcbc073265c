//! [`Pages`]: who owns which page of the layers that keep the same positions.
//!
//! Layers that see all positions keep all of them. Layers with a window keep what it reaches, and let go of pages behind it: a
//! sequence needs only so many of them, however long it grows. The page table stays one entry a page of positions, so kernels
//! know nothing of this; they never read entries behind a window.
//!
//! A sequence that shrinks needs the positions that the window reached there. They are kept for some lengths, and a sequence is
//! cut at the last of these. Where room is short, the oldest go.

use crate::kernels::attention::PAGE;
use std::ops::Range;

/// Positions that are kept behind a window, so that a sequence may lose a few: those of steps that ran too far ahead, and
/// of a turn whose end is written otherwise in the next.
const BEHIND: usize = PAGE;

/// Lengths of a sequence for which positions are kept, at most.
const LENGTHS: usize = 4;

/// Pages of the layers that keep the same positions, in all sequences.
#[derive(Debug)]
pub(super) struct Pages {
    /// Positions that the layers see, the current one included; all of them where absent.
    window: Option<usize>,
    /// Pages that there are.
    total: usize,
    free: Vec<u32>,
    rows: Vec<Row>,
}

/// The pages of a sequence.
#[derive(Clone, Debug, Default)]
struct Row {
    /// By page of positions; nothing where it was let go.
    pages: Vec<Option<u32>>,
    /// Lengths at which it can be cut, the oldest first.
    kept: Vec<usize>,
    /// Positions that it has.
    len: usize,
}

impl Pages {
    /// No pages, for `rows` sequences.
    pub(super) fn new(window: Option<usize>, rows: usize) -> Self {
        Self { window, total: 0, free: Vec::new(), rows: vec![Row::default(); rows] }
    }

    /// Positions that the layers see, the current one included; all of them where absent.
    pub(super) fn window(&self) -> Option<usize> {
        self.window
    }

    /// Pages that there are.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// There are `total` pages now.
    pub(super) fn grow(&mut self, total: usize) {
        self.free.splice(0..0, (self.total as u32..total as u32).rev());
        self.total = total;
    }

    /// Pages of a sequence, for measurements.
    pub(super) fn of(&self, row: usize) -> impl Iterator<Item = u32> + Clone {
        self.rows[row].pages.iter().filter_map(|p| *p)
    }

    /// Makes pages free for a sequence of `len` positions, as far as others can be let go. Where that is not enough, returns how
    /// many pages there have to be, and how many there had better be.
    pub(super) fn make_room(&mut self, row: usize, len: usize, max_pages: usize) -> Option<(usize, usize)> {
        let missing = len.div_ceil(PAGE).saturating_sub(self.rows[row].pages.len());
        while self.free.len() < missing && self.forget_oldest() {}
        let more = missing.checked_sub(self.free.len()).filter(|more| *more > 0)?;
        let used = self.rows.iter().filter(|r| !r.pages.is_empty()).count().max(1);
        // Doubling makes growth rare. A window's pages stop growing, so there it would only be a waste.
        let ahead = match self.window {
            None => (2 * self.total).min(self.rows.len() * max_pages),
            Some(window) => used * ((window + BEHIND).div_ceil(PAGE) + 1).min(max_pages),
        };
        Some((self.total + more, ahead.max(self.total + more)))
    }

    /// Gives a sequence the pages for `len` positions, of those that are free. Returns the first entry of its row in the page
    /// table that is new, and the new ones.
    pub(super) fn take(&mut self, row: usize, len: usize) -> (usize, Vec<u32>) {
        let have = self.rows[row].pages.len();
        let missing = len.div_ceil(PAGE).saturating_sub(have);
        let pages: Vec<u32> = self.free.split_off(self.free.len() - missing).into_iter().rev().collect();
        self.rows[row].pages.extend(pages.iter().copied().map(Some));
        (have, pages)
    }

    /// A sequence has `len` positions now: lets go of pages that nobody sees any more.
    pub(super) fn advance(&mut self, row: usize, len: usize) {
        self.rows[row].len = len;
        self.let_go(row);
    }

    /// Keeps what a sequence needs to go on where it ends now, for later.
    pub(super) fn keep(&mut self, row: usize) {
        let Row { kept, len, .. } = &mut self.rows[row];
        if self.window.is_none() || *len == 0 {
            return;
        }
        kept.retain(|l| l != len);
        kept.push(*len);
        if kept.len() > LENGTHS {
            kept.remove(0);
            self.let_go(row);
        }
    }

    /// The most positions, `len` at most, at which a sequence can go on.
    pub(super) fn reach(&self, row: usize, len: usize) -> usize {
        let pages = &self.rows[row].pages;
        let is_there = |len: usize| pages.get(self.seen(len)).is_some_and(|seen| seen.iter().all(Option::is_some));
        let kept = self.rows[row].kept.iter().copied().filter(|l| *l <= len);
        std::iter::once(len).chain(kept).filter(|l| is_there(*l)).max().unwrap_or(0)
    }

    /// Takes a sequence back to `len` positions, where it can go on.
    pub(super) fn cut(&mut self, row: usize, len: usize) {
        let Row { pages, kept, len: whole } = &mut self.rows[row];
        *whole = len;
        let gone = pages.split_off(len.div_ceil(PAGE).min(pages.len()));
        self.free.extend(gone.into_iter().flatten().rev());
        kept.retain(|l| *l <= len);
    }

    /// A sequence is gone.
    pub(super) fn clear(&mut self, row: usize) {
        self.cut(row, 0);
    }

    /// Pages that a sequence of `len` positions needs for its next token.
    fn seen(&self, len: usize) -> Range<usize> {
        let first = self.window.map_or(0, |window| (len + 1).saturating_sub(window));
        first / PAGE..len.div_ceil(PAGE).max(first / PAGE)
    }

    /// Lets go of a sequence's pages that neither its length needs nor those that are kept.
    fn let_go(&mut self, row: usize) {
        let Row { kept, len, .. } = &self.rows[row];
        let first = |len: usize| self.seen(len.saturating_sub(BEHIND)).start;
        let (behind, needed) = (first(*len), kept.iter().map(|l| first(*l)..l.div_ceil(PAGE)).collect::<Vec<_>>());
        for (i, page) in self.rows[row].pages.iter_mut().enumerate().take(behind) {
            if !needed.iter().any(|n| n.contains(&i)) {
                self.free.extend(page.take());
            }
        }
    }

    /// Forgets the oldest length of the sequence that has most of them. The last one of each stays.
    fn forget_oldest(&mut self) -> bool {
        let lengths = |row: &usize| self.rows[*row].kept.len();
        let Some(row) = (0..self.rows.len()).max_by_key(lengths).filter(|row| lengths(row) > 1) else { return false };
        self.rows[row].kept.remove(0);
        self.let_go(row);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: usize = 512;
    const MAX_PAGES: usize = 128;

    /// Gives a sequence `len` positions, as the cache does.
    fn extend(pages: &mut Pages, row: usize, len: usize) {
        if let Some((_, wanted)) = pages.make_room(row, len, MAX_PAGES) {
            pages.grow(wanted);
        }
        pages.take(row, len);
        pages.advance(row, len);
    }

    fn prefill(pages: &mut Pages, row: usize, len: usize) {
        for end in (512..=len).step_by(512) {
            extend(pages, row, end);
            pages.keep(row);
        }
    }

    #[test]
    fn a_windows_pages_stop_growing() {
        let mut pages = Pages::new(Some(WINDOW), 8);
        prefill(&mut pages, 0, 8192);
        // Those of a window and of a chunk, and one behind.
        assert_eq!(pages.total(), 17);
        let mut all = Pages::new(None, 8);
        prefill(&mut all, 0, 8192);
        assert_eq!((all.total(), all.reach(0, 8000)), (128, 8000));
        // Token by token, with the prompt's end kept.
        (8193..30_000).for_each(|len| extend(&mut pages, 0, len));
        assert!(pages.total() <= 20, "{}", pages.total());
        assert_eq!(pages.reach(0, 29_999), 29_999);
    }

    #[test]
    fn no_page_is_in_two_sequences_or_free_and_in_use() {
        let mut pages = Pages::new(Some(100), 3);
        let mut len = [0usize; 3];
        let mut random = 1u32;
        for _ in 0..5000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (row, what, by) = ((random >> 8) as usize % 3, (random >> 16) % 8, (random >> 20) as usize % 150);
            match what {
                0 => pages.keep(row),
                1 => {
                    len[row] = pages.reach(row, len[row].saturating_sub(by));
                    pages.cut(row, len[row]);
                }
                2 if by < 10 => {
                    len[row] = 0;
                    pages.clear(row);
                }
                _ => {
                    len[row] += by;
                    extend(&mut pages, row, len[row]);
                }
            }
            let mut all: Vec<u32> = (0..3).flat_map(|row| pages.of(row)).chain(pages.free.iter().copied()).collect();
            all.sort_unstable();
            assert_eq!(all, (0..pages.total() as u32).collect::<Vec<_>>());
            // The next token finds all that it sees.
            (0..3).for_each(|row| assert_eq!(pages.reach(row, len[row]), len[row]));
        }
    }

    #[test]
    fn a_sequence_goes_on_where_its_positions_are_kept() {
        let mut pages = Pages::new(Some(WINDOW), 1);
        prefill(&mut pages, 0, 1024);
        (1025..2048).for_each(|len| extend(&mut pages, 0, len));
        // A few tokens are taken back as they are, more of them up to the prompt's end, or a few before it.
        assert_eq!(pages.reach(0, 2047 - 20), 2047 - 20);
        assert_eq!(pages.reach(0, 1300), 1024);
        assert_eq!(pages.reach(0, 1000), 1000);
        assert_eq!(pages.reach(0, 900), 0);
        pages.cut(0, 1024);
        (1025..1100).for_each(|len| extend(&mut pages, 0, len));
        assert_eq!(pages.reach(0, 1099), 1099);
    }
}
