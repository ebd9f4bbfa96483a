//! Values of one type as values of another.

use std::sync::Arc;

use super::Fault;
use super::types::AtomicType;
use super::value::Atomic;

/// The value as one of that type.
pub fn cast(value: &Atomic, to: AtomicType) -> Result<Atomic, Fault> {
    match to {
        AtomicType::Any => Err(Fault::Type),
        AtomicType::Boolean => to_boolean(value).map(Atomic::Boolean),
        AtomicType::Integer(low, high) => match to_integer(value)? {
            number if (low..=high).contains(&number) => Ok(Atomic::Integer(number)),
            _ => Err(Fault::Type),
        },
        AtomicType::Decimal => match to_double(value)? {
            number if !number.is_finite() || has_exponent(value) => Err(Fault::Type),
            number => Ok(Atomic::Decimal(number)),
        },
        AtomicType::Double => to_double(value).map(Atomic::Double),
        AtomicType::String => Ok(Atomic::String(to_text(value))),
        AtomicType::Untyped => Ok(Atomic::Untyped(to_text(value))),
    }
}

pub fn to_text(value: &Atomic) -> Arc<str> {
    match value {
        Atomic::String(text) | Atomic::Untyped(text) => text.clone(),
        Atomic::Boolean(value) => Arc::from(if *value { "true" } else { "false" }),
        Atomic::Integer(value) => Arc::from(value.to_string()),
        Atomic::Decimal(value) | Atomic::Double(value) => Arc::from(number_text(*value)),
    }
}

fn number_text(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".into(),
        f64::INFINITY => "INF".into(),
        f64::NEG_INFINITY => "-INF".into(),
        value => value.to_string(),
    }
}

pub fn to_boolean(value: &Atomic) -> Result<bool, Fault> {
    match value {
        Atomic::Boolean(value) => Ok(*value),
        Atomic::Integer(value) => Ok(*value != 0),
        Atomic::Decimal(value) | Atomic::Double(value) => Ok(*value != 0.0 && !value.is_nan()),
        Atomic::String(text) | Atomic::Untyped(text) => match text.trim() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(Fault::Type),
        },
    }
}

fn to_integer(value: &Atomic) -> Result<i64, Fault> {
    match value {
        Atomic::Boolean(value) => Ok(i64::from(*value)),
        Atomic::Integer(value) => Ok(*value),
        Atomic::Decimal(value) | Atomic::Double(value) => whole(value.trunc()),
        Atomic::String(text) | Atomic::Untyped(text) => text.trim().parse().map_err(|_| Fault::Type),
    }
}

/// A number without fraction as an integer.
pub fn whole(value: f64) -> Result<i64, Fault> {
    // Both bounds are powers of two, so these comparisons are exact.
    let bound = -(i64::MIN as f64);
    if value >= -bound && value < bound { Ok(value as i64) } else { Err(Fault::Type) }
}

pub fn to_double(value: &Atomic) -> Result<f64, Fault> {
    match value {
        Atomic::Boolean(value) => Ok(f64::from(u8::from(*value))),
        Atomic::Integer(value) => Ok(*value as f64),
        Atomic::Decimal(value) | Atomic::Double(value) => Ok(*value),
        Atomic::String(text) | Atomic::Untyped(text) => match text.trim() {
            "INF" => Ok(f64::INFINITY),
            "-INF" => Ok(f64::NEG_INFINITY),
            "NaN" => Ok(f64::NAN),
            // What else the parser takes for a number has letters.
            number if number.contains(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E')) => {
                Err(Fault::Type)
            }
            number => number.parse().map_err(|_| Fault::Type),
        },
    }
}

fn has_exponent(value: &Atomic) -> bool {
    value.as_text().is_some_and(|text| text.contains(['e', 'E']))
}
