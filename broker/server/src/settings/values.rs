//! How the texts of options are read.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

pub(super) fn addresses(text: &str) -> Result<Vec<SocketAddr>, String> {
    let with_port = if text.parse::<std::net::Ipv6Addr>().is_ok() {
        format!("[{text}]:5672")
    } else if !text.contains(':') || text.ends_with(']') {
        format!("{text}:5672")
    } else {
        text.to_string()
    };
    let found: Vec<_> =
        with_port.to_socket_addrs().map_err(|error| format!("no such address: {error}"))?.collect();
    Ok(found)
}

pub(super) fn set<T: FromStr<Err: fmt::Display>>(place: &mut T, text: &str) -> Result<(), String> {
    *place = text.parse().map_err(|error| format!("{error}"))?;
    Ok(())
}

pub(super) fn set_optional<T: FromStr<Err: fmt::Display>>(
    place: &mut Option<T>,
    text: &str,
) -> Result<(), String> {
    *place = if text.is_empty() { None } else { Some(text.parse().map_err(|error| format!("{error}"))?) };
    Ok(())
}

pub(super) fn set_in<T>(place: &mut T, text: &str, range: std::ops::RangeInclusive<T>) -> Result<(), String>
where
    T: FromStr<Err: fmt::Display> + PartialOrd + fmt::Display,
{
    let value: T = text.parse().map_err(|error| format!("{error}"))?;
    if !range.contains(&value) {
        return Err(format!("not within {} to {}", range.start(), range.end()));
    }
    *place = value;
    Ok(())
}

pub(super) fn set_bytes<T>(
    place: &mut T,
    text: &str,
    range: std::ops::RangeInclusive<T>,
) -> Result<(), String>
where
    T: TryFrom<u64> + PartialOrd + fmt::Display,
{
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "k" | "K" | "KiB" => 1 << 10,
        "m" | "M" | "MiB" => 1 << 20,
        "g" | "G" | "GiB" => 1 << 30,
        other => return Err(format!("'{other}' is not one of K, M, G")),
    };
    let number: u64 = digits.parse().map_err(|error| format!("{error}"))?;
    let value = number.checked_mul(unit).and_then(|bytes| T::try_from(bytes).ok());
    match value {
        Some(value) if range.contains(&value) => {
            *place = value;
            Ok(())
        }
        _ => Err(format!("not within {} to {} bytes", range.start(), range.end())),
    }
}

pub(super) fn set_seconds(place: &mut u64, text: &str) -> Result<(), String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if !(0.001..=86_400.0).contains(&seconds) {
        return Err("not within 0.001 to 86400 seconds".to_string());
    }
    *place = (seconds * 1000.0) as u64;
    Ok(())
}
