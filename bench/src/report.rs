//! Figures as people and programs read them: lines on the terminal, one JSON object a line with `--json`.

use std::fmt::Write;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::result::Distribution;

/// One run's figures, in the order in which they were added.
#[derive(Clone, Debug, Default)]
pub struct Report {
    title: String,
    figures: Vec<(&'static str, Figure)>,
}

/// A figure.
#[derive(Clone, Debug, PartialEq)]
pub enum Figure {
    /// A word.
    Text(String),
    /// A count.
    Count(u64),
    /// A measure with its unit.
    Measure(f64, &'static str),
}

impl Report {
    /// Without figures yet.
    pub fn new(title: impl Into<String>) -> Self {
        Report { title: title.into(), figures: Vec::new() }
    }

    /// Adds a word.
    pub fn text(&mut self, name: &'static str, text: impl Into<String>) -> &mut Self {
        self.figures.push((name, Figure::Text(text.into())));
        self
    }

    /// Adds a count.
    pub fn count(&mut self, name: &'static str, count: u64) -> &mut Self {
        self.figures.push((name, Figure::Count(count)));
        self
    }

    /// Adds a measure.
    pub fn measure(&mut self, name: &'static str, value: f64, unit: &'static str) -> &mut Self {
        self.figures.push((name, Figure::Measure(value, unit)));
        self
    }

    /// Adds percentiles, in microseconds.
    pub fn percentiles(&mut self, latencies: &Distribution) -> &mut Self {
        let figures = [
            ("p50", latencies.p50_ns),
            ("p90", latencies.p90_ns),
            ("p99", latencies.p99_ns),
            ("p99.9", latencies.p999_ns),
            ("p99.99", latencies.p9999_ns),
            ("max", latencies.max_ns),
        ];
        for (name, value_ns) in figures {
            self.measure(name, value_ns as f64 / 1e3, "µs");
        }
        self
    }

    /// For the terminal: the title, and a line for each figure.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.title);
        let width = self.figures.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, figure) in &self.figures {
            let figure = match figure {
                Figure::Text(word) => word.clone(),
                Figure::Count(count) => grouped(*count as f64, 0),
                Figure::Measure(value, unit) => {
                    format!("{} {unit}", grouped(*value, if *value < 1000.0 { 2 } else { 0 }))
                }
            };
            writeln!(text, "  {name:width$}  {figure}").expect("strings take everything");
        }
        text
    }

    /// For programs: one object, units in the names.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("its keys are text")
    }

    /// Writes it to standard output.
    pub fn print(&self, json: bool) {
        if json { println!("{}", self.to_json()) } else { print!("{}", self.to_text()) }
    }
}

/// With a comma between thousands.
pub fn grouped(value: f64, decimals: usize) -> String {
    let plain = format!("{value:.decimals$}");
    let (whole, fraction) = plain.split_at(plain.find('.').unwrap_or(plain.len()));
    let digits = whole.trim_start_matches('-');
    let mut text = whole[..whole.len() - digits.len()].to_string();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + fraction
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1 + self.figures.len()))?;
        map.serialize_entry("title", &self.title)?;
        for (name, figure) in &self.figures {
            match figure {
                Figure::Text(word) => map.serialize_entry(name, word)?,
                Figure::Count(count) => map.serialize_entry(name, count)?,
                Figure::Measure(value, "") => map.serialize_entry(name, value)?,
                Figure::Measure(value, unit) => map.serialize_entry(&format!("{name} ({unit})"), value)?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(grouped(1_234_567.0, 0), "1,234,567");
        assert_eq!(grouped(999.0, 0), "999");
        assert_eq!(grouped(-1_000.256, 2), "-1,000.26");
    }

    #[test]
    fn json_is_quoted_and_names_its_units() {
        let mut report = Report::new("a \"b\"\n");
        report.count("n", 3).measure("rate", 1.5, "msg/s").measure("none", f64::NAN, "").text("why", "\\");
        assert_eq!(
            report.to_json(),
            r#"{"title":"a \"b\"\n","n":3,"rate (msg/s)":1.5,"none":null,"why":"\\"}"#
        );
    }

    #[test]
    fn text_has_a_line_for_each_figure() {
        let mut report = Report::new("throughput");
        report.measure("consumed", 1_000_000.0, "msg/s").count("lost", 0);
        assert_eq!(report.to_text(), "throughput\n  consumed  1,000,000 msg/s\n  lost      0\n");
    }
}
