//! What numbers in a selector stand for. Their form is checked before.

/// The value of an integer, negative if a minus stands before it; `None` if it is too large. Of 64 bits that are not
/// written in decimals, the highest is the sign.
pub(super) fn exact(written: &str, negative: bool) -> Option<i64> {
    let digits: String = written.chars().filter(|character| *character != '_').collect();
    let digits = digits.trim_end_matches(['l', 'L']);
    let radix = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => 16,
        [b'0', b'b' | b'B', ..] => 2,
        [b'0', _, ..] => 8,
        _ => {
            let value: i128 = digits.parse().ok()?;
            return i64::try_from(if negative { -value } else { value }).ok();
        }
    };
    let digits = if radix == 8 { digits } else { &digits[2..] };
    let value = u64::from_str_radix(digits, radix).ok()?.cast_signed();
    Some(if negative { value.wrapping_neg() } else { value })
}

/// The value of a floating-point number; `None` if it is too large or too small.
pub(super) fn inexact(written: &str) -> Option<f64> {
    let digits: String = written.chars().filter(|character| *character != '_').collect();
    let (value, is_zero) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) => {
            let (digits, exponent) = digits.split_once(['p', 'P'])?;
            let exponent = exponent.trim_end_matches(['f', 'F', 'd', 'D']);
            (scaled(digits, exponent), digits.bytes().all(|digit| digit == b'0'))
        }
        None => {
            let digits = digits.trim_end_matches(['f', 'F', 'd', 'D']);
            let mantissa = digits.split(['e', 'E']).next().unwrap_or_default();
            (digits.parse().ok()?, mantissa.bytes().all(|digit| matches!(digit, b'0' | b'.')))
        }
    };
    (value.is_finite() && (value != 0.0 || is_zero)).then_some(value)
}

/// Hexadecimal digits times a power of two.
fn scaled(digits: &str, exponent: &str) -> f64 {
    let (mut mantissa, mut shift) = (0u64, 0i64);
    for digit in digits.chars().filter_map(|digit| digit.to_digit(16)) {
        if mantissa >> 60 == 0 {
            mantissa = mantissa << 4 | u64::from(digit);
        } else {
            // What does not fit counts for rounding alone.
            mantissa |= u64::from(digit != 0);
            shift += 4;
        }
    }
    let sign = if exponent.starts_with('-') { -1 } else { 1 };
    let power: i64 = exponent.trim_start_matches(['+', '-']).parse().unwrap_or(i64::from(i32::MAX));
    let mut power = (sign * power).saturating_add(shift).clamp(-3000, 3000) as i32;
    let mut value = mantissa as f64;
    // In steps, each of which is exact but for the last one.
    while power != 0 && value != 0.0 && value.is_finite() {
        let step = power.clamp(-512, 512);
        value *= 2f64.powi(step);
        power -= step;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers() {
        for (written, value) in [
            ("0", 0),
            ("0L", 0),
            ("017", 15),
            ("0_17l", 15),
            ("9223372036854775807", i64::MAX),
            ("1_000L", 1000),
            ("0xFF", 255),
            ("0X8000_0000_0000_0001", -i64::MAX),
            ("0b111_111", 63),
        ] {
            assert_eq!(exact(written, false), Some(value), "{written}");
            assert_eq!(exact(written, true), Some(-value), "-{written}");
        }
        assert_eq!(exact("9223372036854775808", true), Some(i64::MIN));
        assert_eq!(exact("0x8000_0000_0000_0000", true), Some(i64::MIN));
        for large in
            ["9223372036854775808", "0x1_0000_0000_0000_0000", "99999999999999999999999999999999999999999"]
        {
            assert_eq!(exact(large, false), None, "{large}");
        }
        assert_eq!(exact("9223372036854775809", true), None);
    }

    #[test]
    fn floating_point_numbers() {
        for (written, value) in [
            ("3.1251", 3.1251),
            ("0.", 0.0),
            ("0e0", 0.0),
            (".25", 0.25),
            ("3.e50", 3e50),
            ("34.25e+5", 34.25e5),
            ("2e-5d", 2e-5),
            ("34f", 34.0),
            ("1000_020.4f", 1_000_020.4),
            ("0x800p-3", 256.0),
            ("0X1000_0000p0f", 268_435_456.0),
            ("0x1p-1074", f64::from_bits(1)),
            ("0x1fffffffffffffp971", f64::MAX),
            ("0x20000000000001p0", 9_007_199_254_740_992.0),
            ("0x2000000000000100000000001p0", 2f64.powi(97) + 2f64.powi(45)),
            ("0x0p99999999999999999999", 0.0),
        ] {
            assert_eq!(inexact(written), Some(value), "{written}");
        }
        for beyond in ["1e400", "1e-400", "0x1p2000", "0x1p-2000", "0x1p99999999999999999999"] {
            assert_eq!(inexact(beyond), None, "{beyond}");
        }
    }
}
