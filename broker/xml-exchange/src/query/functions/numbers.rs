//! Functions of numbers.

use super::{Answer, Call, Fault, Function, of_context, one, plain};
use crate::query::cast::{to_double, whole};
use crate::query::compare;
use crate::query::value::{Atomic, Item};

pub(super) const FUNCTIONS: &[Function] = &[
    of_context("number", (0, 1), number),
    plain("abs", (1, 1), |call| rounded(call, f64::abs)),
    plain("floor", (1, 1), |call| rounded(call, f64::floor)),
    plain("ceiling", (1, 1), |call| rounded(call, f64::ceil)),
    // Halves go up.
    plain("round", (1, 1), |call| rounded(call, |value| (value + 0.5).floor())),
    plain("round-half-to-even", (1, 1), |call| rounded(call, f64::round_ties_even)),
    plain("sum", (1, 2), sum),
    plain("avg", (1, 1), average),
    plain("min", (1, 1), |call| extreme(call, std::cmp::Ordering::Less)),
    plain("max", (1, 1), |call| extreme(call, std::cmp::Ordering::Greater)),
];

/// As a double; what is not one is not a number.
fn number<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    let argument = call.take(0);
    let value = call.evaluation.optional_atomic(&argument)?;
    one(Atomic::Double(value.map_or(f64::NAN, |value| to_double(&value).unwrap_or(f64::NAN))))
}

fn rounded<'d>(mut call: Call<'_, '_, '_, 'd>, how: fn(f64) -> f64) -> Answer<'d> {
    let rounded = match call.number(0)? {
        None => return Ok(Vec::new()),
        // The only one of these that changes an integer.
        Some(Atomic::Integer(value)) if how(-1.0) == 1.0 => {
            Atomic::Integer(value.checked_abs().ok_or(Fault::Type)?)
        }
        Some(Atomic::Integer(value)) => Atomic::Integer(value),
        Some(Atomic::Decimal(value)) => Atomic::Decimal(how(value)),
        Some(other) => Atomic::Double(how(to_double(&other)?)),
    };
    one(rounded)
}

/// The numbers of an argument. What stands in a document is a double.
fn numbers(call: &mut Call<'_, '_, '_, '_>) -> Result<Vec<Atomic>, Fault> {
    let numeric = |value: Atomic| match value {
        Atomic::Untyped(_) => to_double(&value).map(Atomic::Double),
        value if value.is_number() => Ok(value),
        _ => Err(Fault::Type),
    };
    call.atoms(0)?.into_iter().map(numeric).collect()
}

fn total(numbers: &[Atomic]) -> Result<f64, Fault> {
    numbers.iter().map(to_double).sum()
}

fn sum<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    let numbers = numbers(&mut call)?;
    if numbers.is_empty() && call.has(1) {
        return Ok(call.take(1));
    }
    let total = total(&numbers)?;
    if numbers.iter().all(|number| matches!(number, Atomic::Integer(_))) {
        return one(Atomic::Integer(whole(total)?));
    }
    one(Atomic::Double(total))
}

fn average<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    let numbers = numbers(&mut call)?;
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    one(Atomic::Double(total(&numbers)? / numbers.len() as f64))
}

/// The least or the greatest value; texts are compared as such.
fn extreme<'d>(mut call: Call<'_, '_, '_, 'd>, wanted: std::cmp::Ordering) -> Answer<'d> {
    let mut found: Option<Atomic> = None;
    for value in call.atoms(0)? {
        let value = match value {
            Atomic::Untyped(_) => Atomic::Double(to_double(&value)?),
            value => value,
        };
        match &found {
            Some(known) if compare::order(&value, known)? != Some(wanted) => {}
            _ => found = Some(value),
        }
    }
    Ok(found.into_iter().map(Item::Atomic).collect())
}
