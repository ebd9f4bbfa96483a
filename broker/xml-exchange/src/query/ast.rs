//! What a query is made of.

use super::types::{AtomicType, SequenceType};
use super::value::Atomic;

/// A whole query.
#[derive(Debug)]
pub struct Module {
    /// Its variables, in the order in which they are declared.
    pub globals: Vec<Global>,
    pub body: Expr,
    /// How many places for variables it needs.
    pub slots: u32,
    /// Whether the body of a message can make a difference.
    pub uses_body: bool,
}

/// A variable of the prolog.
#[derive(Debug)]
pub struct Global {
    pub slot: u32,
    /// As written.
    pub name: String,
    pub declared: Option<SequenceType>,
    pub external: bool,
    /// Of an external one, what it is if it is not given.
    pub value: Option<Expr>,
}

#[derive(Debug)]
pub enum Expr {
    Literal(Atomic),
    Variable(u32),
    /// `.`
    Context,
    /// `/`
    Root,
    Sequence(Vec<Expr>),
    Or(Vec<Expr>),
    And(Vec<Expr>),
    Step(Step),
    /// Each item of the left one as context of the right one, nodes in document order.
    Path(Box<Expr>, Box<Expr>),
    /// The same without order.
    Map(Box<Expr>, Box<Expr>),
    Filter(Box<Expr>, Vec<Expr>),
    Call(&'static super::functions::Function, Vec<Expr>),
    Binary(Operator, Box<Expr>, Box<Expr>),
    Negate(Box<Expr>),
    /// A unary plus: a number it has to be.
    Number(Box<Expr>),
    If(Box<Expr>, Box<Expr>, Box<Expr>),
    Flwor(Vec<Clause>, Box<Expr>),
    Quantified {
        every: bool,
        bindings: Vec<(u32, Expr)>,
        satisfies: Box<Expr>,
    },
    InstanceOf(Box<Expr>, SequenceType),
    TreatAs(Box<Expr>, SequenceType),
    /// To that type; of an empty sequence, if that may be, an empty one.
    Cast(Box<Expr>, AtomicType, bool),
    Castable(Box<Expr>, AtomicType, bool),
}

#[derive(Debug)]
pub enum Clause {
    For {
        slot: u32,
        position: Option<u32>,
        items: Expr,
    },
    Let {
        slot: u32,
        value: Expr,
    },
    Where(Expr),
    /// Keys, and whether each is descending and an empty one the greatest.
    OrderBy(Vec<OrderKey>),
}

#[derive(Debug)]
pub struct OrderKey {
    pub key: Expr,
    pub descending: bool,
    pub empty_greatest: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=` and the like: whether any pair is so.
    General(Comparison),
    /// `eq` and the like: single values.
    Value(Comparison),
    Is,
    Precedes,
    Follows,
    Concat,
    Range,
    Add,
    Subtract,
    Multiply,
    Divide,
    IntegerDivide,
    Modulo,
    Union,
    Intersect,
    Except,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug)]
pub struct Step {
    pub axis: Axis,
    pub test: NodeTest,
    pub predicates: Vec<Expr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    Child,
    Descendant,
    DescendantOrSelf,
    Attribute,
    Itself,
    Parent,
    Ancestor,
    AncestorOrSelf,
    FollowingSibling,
    PrecedingSibling,
    Following,
    Preceding,
}

impl Axis {
    /// Whether positions count backwards in the document.
    pub fn is_reverse(self) -> bool {
        matches!(
            self,
            Axis::Parent | Axis::Ancestor | Axis::AncestorOrSelf | Axis::PrecedingSibling | Axis::Preceding
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeTest {
    /// Elements, or on the attribute axis attributes, of that name.
    Name(NameTest),
    Kind(KindTest),
}

/// A name; what is `None` may be anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTest {
    /// `Some(None)`: in no namespace.
    pub namespace: Option<Option<String>>,
    pub local: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KindTest {
    Any,
    Text,
    Comment,
    /// With that target.
    ProcessingInstruction(Option<String>),
    Document,
    Element(NameTest),
    Attribute(NameTest),
}
