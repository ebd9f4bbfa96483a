//! Axes: from values to places, where ticks stand, and how values are written.

/// What an axis measures: how its values are spread, ticked and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Nanoseconds, on a logarithmic scale.
    LatencyNs,
    /// 1 / (1 − q) for the share q of messages, on a logarithmic scale: each nine has the same room.
    Percentile,
    /// Messages a second, on a logarithmic scale.
    RateLog,
    /// Messages a second, from zero.
    Rate,
    /// Bytes of a message, on a logarithmic scale.
    SizeLog,
    /// Bytes of memory, from zero.
    Memory,
    /// Seconds, from zero.
    Seconds,
}

/// An axis with its extent.
#[derive(Clone, Debug)]
pub struct Scale {
    quantity: Quantity,
    low: f64,
    high: f64,
}

impl Quantity {
    /// Whether equal factors have equal lengths.
    pub fn is_logarithmic(self) -> bool {
        matches!(self, Self::LatencyNs | Self::Percentile | Self::RateLog | Self::SizeLog)
    }

    /// Whether `value` has a place on such an axis.
    pub fn can_show(self, value: f64) -> bool {
        value.is_finite() && if self.is_logarithmic() { value > 0.0 } else { value >= 0.0 }
    }

    /// As it stands at a tick or in a table.
    pub fn write(self, value: f64) -> String {
        match self {
            Self::LatencyNs => duration(value),
            Self::Percentile => percentile(value),
            Self::RateLog | Self::Rate => thousands(value),
            Self::SizeLog | Self::Memory => bytes(value),
            Self::Seconds => digits(value),
        }
    }
}

impl Scale {
    /// An axis that holds all of `values`, with its ends at round numbers. None without a value that it can show.
    pub fn over(quantity: Quantity, values: impl Iterator<Item = f64>) -> Option<Scale> {
        let shown = values.filter(|&value| quantity.can_show(value));
        let (low, high) = shown.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (f64::min(low, value), f64::max(high, value))
        });
        if low > high {
            return None;
        }
        let (low, high) = match quantity {
            Quantity::Percentile => (1.0, high.max(10.0)),
            Quantity::Seconds => (0.0, if high > 20.0 { high } else { high.ceil().max(1.0) }),
            Quantity::Memory => (0.0, round_up_binary(high)),
            Quantity::Rate => (0.0, round_up(high)),
            Quantity::SizeLog => (low / 1.5, high * 1.5),
            Quantity::RateLog => widened(low / 1.2, high * 1.2),
            Quantity::LatencyNs => widened(round_down(low), round_up(high)),
        };
        Some(Scale { quantity, low, high })
    }

    /// What it measures.
    pub fn quantity(&self) -> Quantity {
        self.quantity
    }

    /// Where a value stands, from 0 at the low end to 1 at the high end.
    pub fn place(&self, value: f64) -> f64 {
        let (value, low, high) = if self.quantity.is_logarithmic() {
            (value.ln(), self.low.ln(), self.high.ln())
        } else {
            (value, self.low, self.high)
        };
        ((value - low) / (high - low)).clamp(0.0, 1.0)
    }

    /// Values worth a tick, the more important ones first: labels that have no room are left out from the end.
    pub fn ticks(&self) -> Vec<f64> {
        let candidates = match self.quantity {
            Quantity::Percentile => {
                let mut nines = powers(10.0, 10.0, self.high);
                nines.extend([2.0, 1.0]);
                nines
            }
            Quantity::SizeLog => powers(4.0, self.low, self.high),
            quantity if quantity.is_logarithmic() => {
                let mut ticks = powers(10.0, self.low, self.high);
                if self.high / self.low < 2_000.0 {
                    for factor in [2.0, 5.0] {
                        let between = powers(10.0, self.low / factor, self.high / factor);
                        ticks.extend(between.iter().map(|power| power * factor));
                    }
                }
                ticks
            }
            Quantity::Memory => steps(self.high, binary_step(self.high / 4.0)),
            _ => steps(self.high, round_up(self.high / 5.0)),
        };
        let slack = (self.high - self.low) * 1e-9;
        candidates.into_iter().filter(|tick| (self.low - slack..=self.high + slack).contains(tick)).collect()
    }
}

/// Powers of `base` from `low` to `high`, at most some hundred.
fn powers(base: f64, low: f64, high: f64) -> Vec<f64> {
    let exponent = |value: f64| value.ln() / base.ln();
    let (first, last) = ((exponent(low) - 1e-9).ceil() as i32, (exponent(high) + 1e-9).floor() as i32);
    (first..=last.min(first.saturating_add(100))).map(|exponent| base.powi(exponent)).collect()
}

fn steps(high: f64, step: f64) -> Vec<f64> {
    let count = (high / step + 1e-9).floor().min(100.0) as usize;
    (0..=count).map(|index| index as f64 * step).collect()
}

/// The next of 1, 2, 5 times a power of ten that is no less.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| value <= factor * power * (1.0 + 1e-9));
    factor.unwrap_or(10.0) * power
}

/// The next of 1, 2, 5 times a power of ten that is no more.
fn round_down(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let factor = [5.0, 2.0].into_iter().find(|factor| value >= factor * power * (1.0 - 1e-9));
    factor.unwrap_or(1.0) * power
}

fn round_up_binary(value: f64) -> f64 {
    let step = binary_step(value / 4.0);
    (value / step).ceil().max(1.0) * step
}

fn binary_step(value: f64) -> f64 {
    let unit = 1024f64.powf((value.max(1.0).log2() / 10.0).floor());
    round_up(value.max(1.0) / unit) * unit
}

/// At least a factor of ten apart, so that a flat line does not look like a wild one.
fn widened(low: f64, high: f64) -> (f64, f64) {
    if high / low >= 10.0 { (low, high) } else { (low / 2.0, (high * 2.0).max(low * 5.0)) }
}

/// A duration given in nanoseconds, three digits of it, with its unit.
pub fn duration(value_ns: f64) -> String {
    let (divisor, unit) = match value_ns.abs() {
        nothing if !nothing.is_finite() => return digits(value_ns),
        ns if ns < 999.5 => (1.0, "ns"),
        ns if ns < 999.5e3 => (1e3, "µs"),
        ns if ns < 999.5e6 => (1e6, "ms"),
        _ => (1e9, "s"),
    };
    format!("{} {unit}", digits(value_ns / divisor))
}

/// A count of bytes, three digits of it, in units of 1024.
pub fn bytes(value: f64) -> String {
    let (divisor, unit) = match value.abs() {
        nothing if !nothing.is_finite() => return digits(value),
        small if small < 1024.0 => (1.0, "B"),
        kilo if kilo < 1024f64.powi(2) => (1024.0, "KiB"),
        mega if mega < 1024f64.powi(3) => (1024f64.powi(2), "MiB"),
        _ => (1024f64.powi(3), "GiB"),
    };
    format!("{} {unit}", digits(value / divisor))
}

/// A number with k for thousands and M for millions, three digits of it.
pub fn thousands(value: f64) -> String {
    match value.abs() {
        small if small < 999.5 || !small.is_finite() => digits(value),
        kilo if kilo < 999.5e3 => format!("{}k", digits(value / 1e3)),
        mega if mega < 999.5e6 => format!("{}M", digits(value / 1e6)),
        _ => format!("{}G", digits(value / 1e9)),
    }
}

/// Three digits, without zeros at the end of a fraction.
pub fn digits(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    let decimals = match value.abs() {
        // More would be shown of what is too small to matter.
        nothing if nothing < 1e-6 => 0,
        small if small < 0.9995 => (2.0 - small.log10().floor()) as usize,
        tiny if tiny < 9.995 => 2,
        small if small < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    if decimals == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').to_string() }
}

/// The percentile of a place 1 / (1 − q), with as many nines as it has.
fn percentile(place: f64) -> String {
    let share = 100.0 * (1.0 - 1.0 / place);
    let nines = (place.log10() - 2.0).ceil().clamp(0.0, 9.0) as usize;
    format!("{share:.nines$} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(quantity: Quantity, values: &[f64]) -> Vec<String> {
        let scale = Scale::over(quantity, values.iter().copied()).unwrap();
        scale.ticks().into_iter().map(|tick| quantity.write(tick)).collect()
    }

    #[test]
    fn values_are_written_with_three_digits_and_a_unit() {
        assert_eq!(duration(12_345.0), "12.3 µs");
        assert_eq!(duration(999_900.0), "1 ms");
        assert_eq!(duration(2_500_000_000.0), "2.5 s");
        assert_eq!(duration(100.0), "100 ns");
        assert_eq!(bytes(64.0), "64 B");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(thousands(1_234_567.0), "1.23M");
        assert_eq!(
            [digits(0.007_494), digits(0.25), digits(0.999_7), digits(0.0)],
            ["0.00749", "0.25", "1", "0"]
        );
        assert_eq!(
            [thousands(f64::NAN), duration(f64::INFINITY), bytes(f64::NAN)],
            ["–", "–", "–"],
            "what is not a number has no unit"
        );
    }

    #[test]
    fn percentiles_show_their_nines() {
        assert_eq!(
            labels(Quantity::Percentile, &[1.0, 20_000.0]),
            ["90 %", "99 %", "99.9 %", "99.99 %", "50 %", "0 %"]
        );
    }

    #[test]
    fn latencies_have_ticks_at_round_values() {
        assert_eq!(
            labels(Quantity::LatencyNs, &[13_000.0, 4e6]),
            ["10 µs", "100 µs", "1 ms", "20 µs", "200 µs", "2 ms", "50 µs", "500 µs", "5 ms"]
        );
        assert!(labels(Quantity::LatencyNs, &[15_000.0, 15_001.0]).len() >= 2);
    }

    #[test]
    fn linear_axes_start_at_zero() {
        assert_eq!(labels(Quantity::Seconds, &[0.0, 5.0]), ["0", "1", "2", "3", "4", "5"]);
        assert_eq!(labels(Quantity::Rate, &[9_000.0]), ["0", "2k", "4k", "6k", "8k", "10k"]);
        let mib = 1024.0 * 1024.0;
        assert_eq!(labels(Quantity::Memory, &[150.0 * mib]), ["0 B", "50 MiB", "100 MiB", "150 MiB"]);
    }

    #[test]
    fn what_has_no_place_makes_no_axis() {
        assert!(Scale::over(Quantity::LatencyNs, [0.0, -1.0, f64::NAN].into_iter()).is_none());
        assert!(Scale::over(Quantity::Rate, [f64::INFINITY].into_iter()).is_none());
        assert!(Scale::over(Quantity::Rate, [0.0].into_iter()).is_some());
    }

    #[test]
    fn places_lie_between_the_ends() {
        let scale = Scale::over(Quantity::LatencyNs, [10e3, 1e6].into_iter()).unwrap();
        assert!((scale.place(100e3) - 0.5).abs() < 1e-9);
        assert_eq!((scale.place(1.0), scale.place(1e12)), (0.0, 1.0));
    }
}
