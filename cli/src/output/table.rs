//! Plain tables for terminals and pipes: columns padded with spaces, numbers to the right.

use std::fmt::Write as _;

/// A table under construction.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

/// Where a column's text stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// For text.
    Left,
    /// For numbers.
    Right,
}

impl Table {
    /// A table with these columns; a heading that starts with `>` is right-aligned.
    pub fn new(headings: &[&'static str]) -> Self {
        let column = |h: &&'static str| h.strip_prefix('>').map_or((*h, Align::Left), |h| (h, Align::Right));
        Self { columns: headings.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row, one text a column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let headings: Vec<String> = self.columns.iter().map(|c| c.0.to_string()).collect();
        let lines = || std::iter::once(&headings).chain(&self.rows);
        let width = |i: usize| lines().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        for (n, cells) in lines().enumerate() {
            let mut line = String::new();
            for ((cell, (_, align)), width) in cells.iter().zip(&self.columns).zip(&widths) {
                match align {
                    Align::Left => write!(line, "{cell:<width$}  ")?,
                    Align::Right => write!(line, "{cell:>width$}  ")?,
                }
            }
            write!(f, "{}{}", if n == 0 { "" } else { "\n" }, line.trim_end())?;
        }
        Ok(())
    }
}

/// `4096 × 256`, or `256` for a vector.
pub fn shape(shape: &[usize]) -> String {
    shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" × ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_trailing_spaces() {
        let mut table = Table::new(&["tensor", ">bytes"]);
        table.row(["embedding".into(), "7".into()]);
        table.row(["q".into(), "1024".into()]);
        assert_eq!(table.to_string(), "tensor     bytes\nembedding      7\nq           1024");
    }
}
