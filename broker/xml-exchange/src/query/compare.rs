//! Comparing values.

use std::cmp::Ordering;

use super::Fault;
use super::ast::Comparison;
use super::cast::{to_boolean, to_double};
use super::value::Atomic;

impl Comparison {
    /// Whether values that stand so to each other fit; `None`: one is not a number.
    fn fits(self, order: Option<Ordering>) -> bool {
        match self {
            Comparison::Equal => order == Some(Ordering::Equal),
            Comparison::NotEqual => order != Some(Ordering::Equal),
            Comparison::Less => order == Some(Ordering::Less),
            Comparison::LessOrEqual => order.is_some_and(Ordering::is_le),
            Comparison::Greater => order == Some(Ordering::Greater),
            Comparison::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        }
    }
}

/// `=` and the like, for one pair: what stands in a document is what the other one is.
pub fn general(comparison: Comparison, left: &Atomic, right: &Atomic) -> Result<bool, Fault> {
    let order = match (left, right) {
        (Atomic::Untyped(_), number) if number.is_number() => {
            order(&Atomic::Double(to_double(left)?), number)
        }
        (number, Atomic::Untyped(_)) if number.is_number() => {
            order(number, &Atomic::Double(to_double(right)?))
        }
        (Atomic::Untyped(_), Atomic::Boolean(_)) => order(&Atomic::Boolean(to_boolean(left)?), right),
        (Atomic::Boolean(_), Atomic::Untyped(_)) => order(left, &Atomic::Boolean(to_boolean(right)?)),
        _ => order(left, right),
    };
    order.map(|order| comparison.fits(order))
}

/// `eq` and the like: what stands in a document is a string.
pub fn value(comparison: Comparison, left: &Atomic, right: &Atomic) -> Result<bool, Fault> {
    order(left, right).map(|order| comparison.fits(order))
}

/// How values stand to each other; what stands in a document is a string. Truth and numbers can be compared, since some
/// clients send one as the other.
pub fn order(left: &Atomic, right: &Atomic) -> Result<Option<Ordering>, Fault> {
    match (left, right) {
        (Atomic::Integer(left), Atomic::Integer(right)) => Ok(Some(left.cmp(right))),
        (Atomic::Boolean(left), Atomic::Boolean(right)) => Ok(Some(left.cmp(right))),
        _ => match (left.as_text(), right.as_text()) {
            (Some(left), Some(right)) => Ok(Some(left.cmp(right))),
            (None, None) => Ok(to_double(left)?.partial_cmp(&to_double(right)?)),
            _ => Err(Fault::Type),
        },
    }
}
