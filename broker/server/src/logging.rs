//! The log: one line a message, to standard error.

use std::borrow::Cow;
use std::io::Write;

use log::LevelFilter;

/// Starts logging. To be called once.
pub fn start(level: LevelFilter) {
    env_logger::Builder::new()
        .filter_level(level)
        .format(|out, record| {
            let style = out.default_level_style(record.level());
            let time = timestamp();
            writeln!(
                out,
                "{time} {style}{:5}{style:#} {}",
                record.level(),
                one_line(&record.args().to_string())
            )
        })
        .init();
}

/// The text without control characters: what a peer sends may be in it, and must not look like lines of its own.
fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect::<String>().into()
}

/// Now, as RFC 3339 in UTC with milliseconds.
fn timestamp() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format_timestamp(now.as_secs(), now.subsec_millis())
}

fn format_timestamp(unix_s: u64, ms: u32) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    // Gregorian date of a day count; years are taken to begin in March, so that leap days come last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stays_on_its_line() {
        assert_eq!(one_line("user 'é'"), "user 'é'");
        assert_eq!(one_line("user 'a\nERROR \x1b[2J'"), "user 'a\\nERROR \\u{1b}[2J'");
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(format_timestamp(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(format_timestamp(951_827_696, 7), "2000-02-29T12:34:56.007Z");
        assert_eq!(format_timestamp(1_798_761_599, 999), "2026-12-31T23:59:59.999Z");
    }
}
