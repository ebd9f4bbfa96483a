//! Values that expressions have, and how they compare.

use crate::message::Scalar;
use crate::message::properties::UUID_TEXT_BYTES;

/// What an expression has for a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Unknown,
    Bool(bool),
    Exact(i64),
    Inexact(f64),
    Text(Text<'a>),
}

/// A text, put together where the message does not have it in one piece.
#[derive(Clone, Copy, Debug)]
pub(super) enum Text<'a> {
    Whole(&'a [u8]),
    /// With a slash between them.
    Joined(&'a [u8], &'a [u8]),
    Uuid([u8; UUID_TEXT_BYTES]),
}

impl Text<'_> {
    pub fn len(&self) -> usize {
        match self {
            Text::Whole(bytes) => bytes.len(),
            Text::Joined(first, second) => first.len() + 1 + second.len(),
            Text::Uuid(bytes) => bytes.len(),
        }
    }

    /// The byte there, if there is one.
    pub fn get(&self, at: usize) -> Option<u8> {
        match self {
            Text::Whole(bytes) => bytes.get(at).copied(),
            Text::Joined(first, _) if at == first.len() => Some(b'/'),
            Text::Joined(first, _) if at < first.len() => Some(first[at]),
            Text::Joined(first, second) => second.get(at - first.len() - 1).copied(),
            Text::Uuid(bytes) => bytes.get(at).copied(),
        }
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        if let (Text::Whole(left), Text::Whole(right)) = (self, other) {
            return left == right;
        }
        self.len() == other.len() && (0..self.len()).all(|at| self.get(at) == other.get(at))
    }
}

impl<'a> From<Scalar<'a>> for Value<'a> {
    fn from(scalar: Scalar<'a>) -> Self {
        match scalar {
            Scalar::Void | Scalar::Other => Value::Unknown,
            Scalar::Bool(v) => Value::Bool(v),
            Scalar::Int(v) => Value::Exact(v),
            Scalar::Float(v) => Value::Inexact(v),
            Scalar::Timestamp(v) => Scalar::of_u64(v).into(),
            Scalar::Text(v) => Value::Text(Text::Whole(v)),
        }
    }
}

impl From<Option<bool>> for Value<'_> {
    fn from(truth: Option<bool>) -> Self {
        truth.map_or(Value::Unknown, Value::Bool)
    }
}

/// Two numbers of one type.
enum Numbers {
    Exact(i64, i64),
    Inexact(f64, f64),
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// How two numbers make another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
}

impl Value<'_> {
    pub fn is_unknown(&self) -> bool {
        matches!(self, Value::Unknown)
    }

    /// Whether it holds; unknown for what is no boolean.
    pub fn truth(&self) -> Option<bool> {
        match *self {
            Value::Bool(truth) => Some(truth),
            _ => None,
        }
    }

    /// Both as numbers of one type; an integer beside a floating-point number becomes one.
    fn numbers(&self, other: &Value<'_>) -> Option<Numbers> {
        Some(match (*self, *other) {
            (Value::Exact(left), Value::Exact(right)) => Numbers::Exact(left, right),
            (Value::Exact(left), Value::Inexact(right)) => Numbers::Inexact(left as f64, right),
            (Value::Inexact(left), Value::Exact(right)) => Numbers::Inexact(left, right as f64),
            (Value::Inexact(left), Value::Inexact(right)) => Numbers::Inexact(left, right),
            _ => return None,
        })
    }

    /// Whether the two can be equal: both are numbers, or of one type.
    pub fn is_comparable(&self, other: &Value<'_>) -> bool {
        self.numbers(other).is_some()
            || matches!((self, other), (Value::Bool(_), Value::Bool(_)) | (Value::Text(_), Value::Text(_)))
    }

    /// Compares two known values. Only numbers have an order, and those of different types are neither equal nor
    /// unequal.
    pub fn compare(&self, comparison: Comparison, other: &Value<'_>) -> bool {
        fn holds<T: PartialOrd>(left: T, comparison: Comparison, right: T) -> bool {
            match comparison {
                Comparison::Equal => left == right,
                Comparison::Unequal => left != right,
                Comparison::Less => left < right,
                Comparison::LessOrEqual => left <= right,
                Comparison::Greater => left > right,
                Comparison::GreaterOrEqual => left >= right,
            }
        }
        match (self.numbers(other), comparison) {
            (Some(Numbers::Exact(left, right)), _) => holds(left, comparison, right),
            (Some(Numbers::Inexact(left, right)), _) => holds(left, comparison, right),
            (None, Comparison::Equal) => self.is_comparable(other) && self == other,
            (None, Comparison::Unequal) => self.is_comparable(other) && self != other,
            (None, _) => false,
        }
    }

    /// Calculates; unknown for what is no number, and for an integer divided by zero. Integers wrap.
    pub fn calculate(&self, operation: Operation, other: &Value<'_>) -> Value<'static> {
        match self.numbers(other) {
            None => Value::Unknown,
            Some(Numbers::Inexact(left, right)) => Value::Inexact(match operation {
                Operation::Add => left + right,
                Operation::Subtract => left - right,
                Operation::Multiply => left * right,
                Operation::Divide => left / right,
            }),
            Some(Numbers::Exact(left, right)) => Value::Exact(match operation {
                Operation::Add => left.wrapping_add(right),
                Operation::Subtract => left.wrapping_sub(right),
                Operation::Multiply => left.wrapping_mul(right),
                Operation::Divide if right == 0 => return Value::Unknown,
                Operation::Divide => left.wrapping_div(right),
            }),
        }
    }

    pub fn negated(&self) -> Value<'static> {
        match *self {
            Value::Exact(v) => Value::Exact(v.wrapping_neg()),
            Value::Inexact(v) => Value::Inexact(-v),
            _ => Value::Unknown,
        }
    }
}
