//! Tables of text: columns as wide as their widest cell, two spaces between them, nothing cut off. The same on a
//! terminal and in a pipe, colours aside.

use std::fmt::Write;

use unicode_width::UnicodeWidthStr;

use crate::{
    format::clean,
    style::{Style, paint},
};

/// One cell: text and the colour it has on a terminal.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell in colour.
    pub fn new(text: impl AsRef<str>, style: Style) -> Self {
        Self { text: clean(text.as_ref()).into_owned(), style }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Style::Plain)
    }
}

/// Rows under a header.
#[derive(Debug)]
pub struct Table {
    header: Vec<Cell>,
    rows: Vec<Row>,
}

#[derive(Debug)]
enum Row {
    Cells(Vec<Cell>),
    /// A line of its own, indented to a column.
    Note(usize, Cell),
}

impl Table {
    /// A table with these column names.
    pub fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|h| Cell::new(h, Style::Dim)).collect(), rows: Vec::new() }
    }

    /// Adds a row. An empty cell is shown as `-`, so that a row has as many words for a script as for a reader.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let dash = |c: Cell| if c.text.is_empty() { Cell::new("-", Style::Dim) } else { c };
        self.rows.push(Row::Cells(cells.into_iter().map(dash).collect()));
    }

    /// Adds a line that begins under `column` and may be longer than it.
    pub fn note(&mut self, column: usize, note: Cell) {
        self.rows.push(Row::Note(column, note));
    }

    /// The lines, each ended by a line feed and without blanks before it.
    pub fn render(&self, colour: bool) -> String {
        let widths = self.widths();
        let mut out = String::new();
        line(&mut out, &self.header, &widths, colour);
        for row in &self.rows {
            match row {
                Row::Cells(cells) => line(&mut out, cells, &widths, colour),
                Row::Note(column, note) => {
                    let indent: usize = widths.iter().take(*column).map(|w| w + GAP).sum();
                    // Writing to a String cannot fail.
                    let _ = writeln!(out, "{:indent$}{}", "", paint(&note.text, note.style, colour));
                }
            }
        }
        out
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.header.iter().map(|c| c.text.width()).collect();
        for row in &self.rows {
            let Row::Cells(cells) = row else { continue };
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.text.width());
            }
        }
        widths
    }
}

const GAP: usize = 2;

fn line(out: &mut String, cells: &[Cell], widths: &[usize], colour: bool) {
    for (i, (cell, width)) in cells.iter().zip(widths).enumerate() {
        out.push_str(&paint(&cell.text, cell.style, colour));
        if i + 1 < cells.len() {
            let padding = width.saturating_sub(cell.text.width()) + GAP;
            out.extend(std::iter::repeat_n(' ', padding));
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&["id", "name", "rtt"]);
        table.row(["1".into(), "küche".into(), Cell::new("3 ms", Style::Good)]);
        table.row(["12".into(), "電算".into(), "".into()]);
        table.note(1, Cell::new("error: gone\n", Style::Bad));
        table
    }

    #[test]
    fn columns_line_up_by_display_width() {
        let expected = "id  name   rtt\n1   küche  3 ms\n12  電算   -\n    error: gone\u{fffd}\n";
        assert_eq!(sample().render(false), expected);
    }

    #[test]
    fn colours_take_no_room() {
        let coloured = sample().render(true);
        assert!(coloured.contains("\u{1b}[32m3 ms\u{1b}[0m"), "{coloured:?}");
        assert!(coloured.contains("\u{1b}[2mid\u{1b}[0m  "), "{coloured:?}");
    }
}
