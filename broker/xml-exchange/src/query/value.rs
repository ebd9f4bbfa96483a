//! Items and sequences.

use std::sync::Arc;

use super::Fault;

/// What a query may still cost.
pub struct Budget<'b>(pub &'b mut u32);

impl Budget<'_> {
    /// So many items or nodes are looked at.
    pub fn spend(&mut self, steps: usize) -> Result<(), Fault> {
        match u32::try_from(steps).ok().and_then(|steps| self.0.checked_sub(steps)) {
            Some(left) => {
                *self.0 = left;
                Ok(())
            }
            None => {
                *self.0 = 0;
                Err(Fault::Exhausted)
            }
        }
    }

    /// A text is copied or searched.
    pub fn spend_on_text(&mut self, text: &str) -> Result<(), Fault> {
        self.spend(1 + text.len() / BYTES_A_STEP)
    }
}

/// Bytes of text that count as one step.
pub(crate) const BYTES_A_STEP: usize = 32;

/// A value that is not a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Atomic {
    /// `xs:boolean`
    Boolean(bool),
    /// `xs:integer`
    Integer(i64),
    /// `xs:decimal`, with the precision of a double.
    Decimal(f64),
    /// `xs:double` and `xs:float`
    Double(f64),
    /// `xs:string` and `xs:anyURI`
    String(Arc<str>),
    /// `xs:untypedAtomic`: what stands in a document.
    Untyped(Arc<str>),
}

/// An element, its text, an attribute, …
#[derive(Clone, Copy, Debug)]
pub struct Node<'d> {
    pub node: roxmltree::Node<'d, 'd>,
    /// Which attribute of it, if that is meant.
    pub attribute: Option<u32>,
}

#[derive(Clone, Debug)]
pub enum Item<'d> {
    Node(Node<'d>),
    Atomic(Atomic),
}

/// The value of any expression.
pub type Sequence<'d> = Vec<Item<'d>>;

impl<'d> Node<'d> {
    /// Where it stands: equal for the same node only, ascending in document order.
    pub fn order(&self) -> (u32, u32) {
        (self.node.id().get(), self.attribute.map_or(0, |nth| nth + 1))
    }

    /// The attribute, if it is one.
    pub fn attribute(&self) -> Option<roxmltree::Attribute<'d, 'd>> {
        self.attribute.and_then(|nth| self.node.attributes().nth(nth as usize))
    }

    /// Its text and that of all that it contains.
    pub fn text(&self, budget: &mut Budget<'_>) -> Result<String, Fault> {
        if let Some(attribute) = self.attribute() {
            return Ok(attribute.value().into());
        }
        if let Some(instruction) = self.node.pi() {
            return Ok(instruction.value.unwrap_or_default().into());
        }
        if !self.node.is_element() && !self.node.is_root() {
            return Ok(self.node.text().unwrap_or_default().into());
        }
        let mut text = String::new();
        for node in self.node.descendants() {
            budget.spend(1)?;
            if let (true, Some(piece)) = (node.is_text(), node.text()) {
                budget.spend_on_text(piece)?;
                text.push_str(piece);
            }
        }
        Ok(text)
    }

    /// Namespace and local part of its name, if it has one.
    pub fn name(&self) -> Option<(Option<&'d str>, &'d str)> {
        match self.attribute() {
            Some(attribute) => Some((attribute.namespace(), attribute.name())),
            None => match self.node.pi() {
                Some(instruction) => Some((None, instruction.target)),
                None if self.node.is_element() => {
                    let name = self.node.tag_name();
                    Some((name.namespace(), name.name()))
                }
                None => None,
            },
        }
    }

    fn atomized(&self, budget: &mut Budget<'_>) -> Result<Atomic, Fault> {
        let is_typed = self.attribute.is_none() && (self.node.is_comment() || self.node.is_pi());
        let text = Arc::from(self.text(budget)?);
        Ok(if is_typed { Atomic::String(text) } else { Atomic::Untyped(text) })
    }
}

impl<'d> From<roxmltree::Node<'d, 'd>> for Node<'d> {
    fn from(node: roxmltree::Node<'d, 'd>) -> Self {
        Node { node, attribute: None }
    }
}

impl Item<'_> {
    /// The value, of a node the one that it has as text.
    pub fn atomized(&self, budget: &mut Budget<'_>) -> Result<Atomic, Fault> {
        match self {
            Item::Node(node) => node.atomized(budget),
            Item::Atomic(atomic) => {
                budget.spend(atomic.text_steps())?;
                Ok(atomic.clone())
            }
        }
    }
}

impl Atomic {
    pub(crate) fn text(text: &str) -> Self {
        Atomic::String(Arc::from(text))
    }

    /// The text of a string or of what stands in a document.
    pub fn as_text(&self) -> Option<&Arc<str>> {
        match self {
            Atomic::String(text) | Atomic::Untyped(text) => Some(text),
            _ => None,
        }
    }

    /// What it costs to look at all of its text.
    pub(crate) fn text_steps(&self) -> usize {
        self.as_text().map_or(0, |text| text.len() / BYTES_A_STEP)
    }

    pub(crate) fn is_number(&self) -> bool {
        matches!(self, Atomic::Integer(_) | Atomic::Decimal(_) | Atomic::Double(_))
    }
}

/// The effective boolean value: of nothing false, of nodes true, of one value whether it is something.
pub fn effective_boolean(sequence: &[Item<'_>]) -> Result<bool, Fault> {
    match sequence {
        [] => Ok(false),
        [Item::Node(_), ..] => Ok(true),
        [Item::Atomic(atomic)] => Ok(match atomic {
            Atomic::Boolean(value) => *value,
            Atomic::Integer(value) => *value != 0,
            Atomic::Decimal(value) | Atomic::Double(value) => *value != 0.0 && !value.is_nan(),
            Atomic::String(text) | Atomic::Untyped(text) => !text.is_empty(),
        }),
        [Item::Atomic(_), ..] => Err(Fault::Type),
    }
}
