//! The types that a query can name.

use super::ast::KindTest;
use super::value::{Atomic, Item};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicType {
    Any,
    Boolean,
    /// With its bounds.
    Integer(i64, i64),
    Decimal,
    Double,
    String,
    Untyped,
}

#[derive(Clone, Debug)]
pub enum ItemType {
    Any,
    Atomic(AtomicType),
    Node(KindTest),
}

#[derive(Clone, Debug)]
pub struct SequenceType {
    /// `None`: `empty-sequence()`.
    pub item: Option<ItemType>,
    pub may_be_empty: bool,
    pub may_be_many: bool,
}

impl AtomicType {
    /// The type of that name in the namespace `xs`.
    pub fn named(name: &str) -> Option<Self> {
        let integer = |low: i64, high: i64| AtomicType::Integer(low, high);
        Some(match name {
            "anyAtomicType" => AtomicType::Any,
            "boolean" => AtomicType::Boolean,
            "integer" => integer(i64::MIN, i64::MAX),
            "long" => integer(i64::MIN, i64::MAX),
            "int" => integer(i32::MIN.into(), i32::MAX.into()),
            "short" => integer(i16::MIN.into(), i16::MAX.into()),
            "byte" => integer(i8::MIN.into(), i8::MAX.into()),
            "nonNegativeInteger" | "unsignedLong" => integer(0, i64::MAX),
            "positiveInteger" => integer(1, i64::MAX),
            "nonPositiveInteger" => integer(i64::MIN, 0),
            "negativeInteger" => integer(i64::MIN, -1),
            "unsignedInt" => integer(0, u32::MAX.into()),
            "unsignedShort" => integer(0, u16::MAX.into()),
            "unsignedByte" => integer(0, u8::MAX.into()),
            "decimal" => AtomicType::Decimal,
            "double" | "float" => AtomicType::Double,
            "string" | "anyURI" | "normalizedString" | "token" => AtomicType::String,
            "untypedAtomic" => AtomicType::Untyped,
            _ => return None,
        })
    }

    /// Whether a value is of the type.
    pub fn has(self, value: &Atomic) -> bool {
        match (self, value) {
            (AtomicType::Any, _)
            | (AtomicType::Boolean, Atomic::Boolean(_))
            | (AtomicType::Decimal, Atomic::Decimal(_) | Atomic::Integer(_))
            | (AtomicType::Double, Atomic::Double(_))
            | (AtomicType::String, Atomic::String(_))
            | (AtomicType::Untyped, Atomic::Untyped(_)) => true,
            (AtomicType::Integer(low, high), Atomic::Integer(value)) => (low..=high).contains(value),
            _ => false,
        }
    }
}

impl SequenceType {
    pub fn has(&self, sequence: &[Item<'_>]) -> bool {
        match (&self.item, sequence.len()) {
            (None, length) => length == 0,
            (Some(_), 0) => self.may_be_empty,
            (Some(_), 2..) if !self.may_be_many => false,
            (Some(item), _) => sequence.iter().all(|value| item.has(value)),
        }
    }
}

impl ItemType {
    fn has(&self, item: &Item<'_>) -> bool {
        match (self, item) {
            (ItemType::Any, _) => true,
            (ItemType::Atomic(of), Item::Atomic(value)) => of.has(value),
            (ItemType::Node(test), Item::Node(node)) => test.has(node),
            _ => false,
        }
    }
}
