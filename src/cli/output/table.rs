//! Tables that fit the terminal: the least important columns leave first, ids are never shortened nor broken.

use comfy_table::{Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement};

use super::style::{Paint, Style};

/// Blanks between two columns.
const GAP: usize = 2;

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    title: &'static str,
    /// The larger, the earlier it leaves a narrow screen; 0 never leaves.
    leaves: u8,
    is_whole: bool,
    is_number: bool,
}

impl Column {
    /// A column that never leaves, whose text may be broken into lines.
    #[must_use]
    pub const fn new(title: &'static str) -> Self {
        Self { title, leaves: 0, is_whole: false, is_number: false }
    }

    /// A column of ids or the like: its texts stay whole, in one line.
    #[must_use]
    pub const fn whole(title: &'static str) -> Self {
        Self { title, leaves: 0, is_whole: true, is_number: false }
    }

    /// Leaves a screen that is too narrow; the largest number first.
    #[must_use]
    pub const fn leaves(mut self, order: u8) -> Self {
        self.leaves = order;
        self
    }

    /// Numbers, which stand to the right.
    #[must_use]
    pub const fn number(mut self) -> Self {
        self.is_number = true;
        self
    }
}

/// Rows below the same columns.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<(String, Option<Paint>)>>,
    empty: String,
}

impl Table {
    /// A table without rows. `empty` says what would fill it.
    pub fn new(columns: &[Column], empty: impl Into<String>) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new(), empty: empty.into() }
    }

    /// Adds a row of plain texts.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.painted_row(cells.into_iter().map(|cell| (cell.into(), None)));
    }

    /// Adds a row of texts with their colours.
    pub fn painted_row(&mut self, cells: impl IntoIterator<Item = (String, Option<Paint>)>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table on a screen of this style, with a line end behind it.
    #[must_use]
    pub fn render(&self, style: &Style) -> String {
        if self.rows.is_empty() {
            return format!("{}\n", style.text(&self.empty));
        }
        let shown = self.fitting(style);
        if self.needed(&shown, style) > style.width {
            return self.stacked(style);
        }
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(u16::try_from(style.width).unwrap_or(u16::MAX));
        if style.is_coloured {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(shown.iter().map(|(_, column)| Cell::new(column.title).add_attribute(Attribute::Dim)));
        for row in &self.rows {
            table.add_row(shown.iter().map(|(index, _)| {
                let (text, paint) = row.get(*index).map_or(("", None), |(text, paint)| (text.as_str(), *paint));
                painted(Cell::new(style.text(text)), paint)
            }));
        }
        for (column, (_, named)) in table.column_iter_mut().zip(&shown) {
            column.set_padding((0, u16::try_from(GAP).unwrap_or(2)));
            if named.is_whole {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
            if named.is_number {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut out = String::new();
        for line in table.to_string().lines() {
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    /// For screens that are too narrow even for what never leaves: each row in lines of its own, with every column.
    fn stacked(&self, style: &Style) -> String {
        let mut out = String::new();
        for row in &self.rows {
            let mut cells = row.iter().filter(|(text, _)| !text.is_empty());
            let first = cells.next().map(|(text, _)| style.text(text)).unwrap_or_default();
            out.push_str(&style.paint(Paint::Strong, &first));
            out.push('\n');
            let rest: Vec<_> = cells.map(|(text, _)| text.as_str()).collect();
            for line in Style::wrap(&style.text(&rest.join(" · ")), style.width.saturating_sub(2)) {
                out.push_str("  ");
                out.push_str(&line);
                out.push('\n');
            }
        }
        out
    }

    /// The columns that fit side by side, as many as possible, with their places.
    fn fitting(&self, style: &Style) -> Vec<(usize, Column)> {
        let mut shown: Vec<(usize, Column)> = self.columns.iter().copied().enumerate().collect();
        while self.needed(&shown, style) > style.width {
            let least = shown.iter().enumerate().filter(|(_, (_, column))| column.leaves > 0);
            let Some((place, _)) = least.max_by_key(|(_, (_, column))| column.leaves) else { break };
            shown.remove(place);
        }
        shown
    }

    /// Columns of the screen that these need: whole ones their widest text, others at most 24.
    fn needed(&self, shown: &[(usize, Column)], style: &Style) -> usize {
        let width = |(index, column): &(usize, Column)| {
            let texts = self.rows.iter().filter_map(|row| row.get(*index));
            let widest = texts.map(|(text, _)| style.text(text).chars().count()).max().unwrap_or(0);
            let widest = widest.max(column.title.chars().count());
            GAP + if column.is_whole { widest } else { widest.min(24) }
        };
        // nothing stands behind the last column
        shown.iter().map(width).sum::<usize>().saturating_sub(GAP)
    }
}

fn painted(cell: Cell, paint: Option<Paint>) -> Cell {
    match paint {
        None => cell,
        Some(Paint::Good) => cell.fg(comfy_table::Color::DarkGreen),
        Some(Paint::Bad) => cell.fg(comfy_table::Color::DarkRed),
        Some(Paint::Warning) => cell.fg(comfy_table::Color::DarkYellow),
        Some(Paint::Dim) => cell.add_attribute(Attribute::Dim),
        Some(Paint::Strong) => cell.add_attribute(Attribute::Bold),
    }
}
