//! Tables on the terminal.

use crate::metric::Metric;
use crate::page::written;
use crate::statistics::Summary;

/// A figure over several rounds: the median, and the least and the most as far as three digits tell them apart.
pub fn spread(metric: &Metric, found: Summary) -> String {
    let [median, least, greatest] =
        [found.median, found.least, found.greatest].map(|value| written(metric, value));
    if least == greatest { median } else { format!("{median} [{least}, {greatest}]") }
}

/// Rows of columns: the first to the left, the others to the right.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(column, cell)| match column {
            0 => format!("  {cell:<width$}", width = widths[0]),
            _ => format!("   {cell:>width$}", width = widths[column]),
        });
        cells.collect::<String>().trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_string(), "µs".into(), "1".into()], vec!["bcd".into(), "2".into()]];
        assert_eq!(aligned(&rows), "  a     µs   1\n  bcd    2\n");
        assert_eq!(aligned(&[]), "");
    }
}
