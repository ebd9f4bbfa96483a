//! Compiled expressions, and what they come to for a message.

use super::Standing;
use super::identifier::Identifier;
use super::like::Pattern;
use super::value::{Comparison, Operation, Text, Value};
use crate::MessageView;

/// The message that an expression is evaluated for.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub message: &'a MessageView<'a>,
    pub standing: &'a Standing,
}

/// An expression. Chains of one operator lie side by side, so that only what the parser counts makes it deep.
#[derive(Debug)]
pub(super) enum Expression {
    Bool(bool),
    Exact(i64),
    Inexact(f64),
    Text(Box<[u8]>),
    Identifier(Identifier),
    Not(Box<Expression>),
    And(Box<[Expression]>),
    Or(Box<[Expression]>),
    Compare(Comparison, Box<[Expression; 2]>),
    IsNull(Box<Expression>),
    Like(Box<Expression>, Pattern),
    /// A value, and the least and the greatest that it may be.
    Between(Box<[Expression; 3]>),
    In(Box<Expression>, Box<[Expression]>),
    NotIn(Box<Expression>, Box<[Expression]>),
    /// A value, and what is done with it, one after the other.
    Calculate(Box<Expression>, Box<[(Operation, Expression)]>),
    Negate(Box<Expression>),
}

impl Expression {
    pub fn value<'a>(&'a self, subject: &Subject<'a>) -> Value<'a> {
        match self {
            Expression::Exact(value) => Value::Exact(*value),
            Expression::Inexact(value) => Value::Inexact(*value),
            Expression::Text(value) => Value::Text(Text::Whole(value)),
            Expression::Identifier(identifier) => identifier.evaluate(subject),
            Expression::Negate(operand) => operand.value(subject).negated(),
            Expression::Calculate(first, rest) => {
                rest.iter().fold(first.value(subject), |value, (operation, operand)| {
                    value.calculate(*operation, &operand.value(subject))
                })
            }
            _ => self.truth(subject).into(),
        }
    }

    /// Whether it holds; `None` if that is not known.
    pub fn truth(&self, subject: &Subject<'_>) -> Option<bool> {
        match self {
            Expression::Bool(truth) => Some(*truth),
            Expression::Not(operand) => operand.truth(subject).map(|truth| !truth),
            Expression::And(operands) => decided_by(false, operands, subject),
            Expression::Or(operands) => decided_by(true, operands, subject),
            Expression::Compare(comparison, operands) => {
                let [left, right] = &**operands;
                let left = known(left.value(subject))?;
                Some(left.compare(*comparison, &known(right.value(subject))?))
            }
            Expression::IsNull(operand) => Some(operand.value(subject).is_unknown()),
            Expression::Like(operand, pattern) => match operand.value(subject) {
                Value::Text(text) => Some(pattern.matches(&text)),
                _ => None,
            },
            Expression::Between(operands) => {
                let [value, least, greatest] = &**operands;
                let value = known(value.value(subject))?;
                let (least, greatest) = (known(least.value(subject))?, known(greatest.value(subject))?);
                let holds = |comparison, bound| value.compare(comparison, bound);
                Some(holds(Comparison::GreaterOrEqual, &least) && holds(Comparison::LessOrEqual, &greatest))
            }
            Expression::In(value, list) => is_in(&known(value.value(subject))?, list, subject),
            Expression::NotIn(value, list) => is_not_in(&known(value.value(subject))?, list, subject),
            _ => self.value(subject).truth(),
        }
    }
}

fn known(value: Value<'_>) -> Option<Value<'_>> {
    if value.is_unknown() { None } else { Some(value) }
}

/// Operands of which one that is `decisive` decides, whatever the others are.
fn decided_by(decisive: bool, operands: &[Expression], subject: &Subject<'_>) -> Option<bool> {
    let mut result = Some(!decisive);
    for operand in operands {
        match operand.truth(subject) {
            Some(truth) if truth == decisive => return Some(decisive),
            Some(_) => {}
            None => result = None,
        }
    }
    result
}

fn is_in(value: &Value<'_>, list: &[Expression], subject: &Subject<'_>) -> Option<bool> {
    let mut result = Some(false);
    for element in list {
        match element.value(subject) {
            Value::Unknown => result = None,
            element if value.compare(Comparison::Equal, &element) => return Some(true),
            _ => {}
        }
    }
    result
}

/// Not the opposite: beside an element that it cannot be compared with, a value is not known to be outside of the list.
fn is_not_in(value: &Value<'_>, list: &[Expression], subject: &Subject<'_>) -> Option<bool> {
    let mut result = Some(true);
    for element in list {
        match element.value(subject) {
            Value::Unknown => result = None,
            element if value.compare(Comparison::Equal, &element) => return Some(false),
            element if result.is_some() && !value.is_comparable(&element) => result = Some(false),
            _ => {}
        }
    }
    result
}
