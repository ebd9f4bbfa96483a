//! From text to what it means: paths, steps, calls.

use super::SyntaxError;
use super::ast::{Axis, Expr, KindTest, NodeTest, Step};
use super::cursor::is_name_start;
use super::functions;
use super::parse::Parser;
use super::prolog::Library;
use super::types::AtomicType;

const AXES: [(&str, Axis); 12] = [
    ("child", Axis::Child),
    ("descendant", Axis::Descendant),
    ("descendant-or-self", Axis::DescendantOrSelf),
    ("attribute", Axis::Attribute),
    ("self", Axis::Itself),
    ("parent", Axis::Parent),
    ("ancestor", Axis::Ancestor),
    ("ancestor-or-self", Axis::AncestorOrSelf),
    ("following-sibling", Axis::FollowingSibling),
    ("preceding-sibling", Axis::PrecedingSibling),
    ("following", Axis::Following),
    ("preceding", Axis::Preceding),
];

/// What no function may be called, and what stands there instead.
const NOT_THERE: [(&str, &str); 3] = [
    ("typeswitch", "'typeswitch' is not supported"),
    ("switch", "'switch' is not supported"),
    ("function", "functions of one's own are not supported"),
];

impl Parser<'_> {
    pub(super) fn path(&mut self) -> Result<Expr, SyntaxError> {
        let left = if self.cursor.eat("//")? {
            self.look_at_context();
            self.lay();
            self.raise(1)?;
            Expr::Path(Box::new(Expr::Root), Box::new(any_below()))
        } else if self.cursor.eat("/")? {
            self.look_at_context();
            self.lay();
            if !self.sees_step()? {
                return Ok(Expr::Root);
            }
            Expr::Root
        } else {
            let first = self.step()?;
            return self.steps(first);
        };
        let left = self.slash(left)?;
        self.steps(left)
    }

    /// The steps behind a first one.
    fn steps(&mut self, mut left: Expr) -> Result<Expr, SyntaxError> {
        loop {
            if self.cursor.eat("//")? {
                self.raise(self.height())?;
                left = Expr::Path(Box::new(left), Box::new(any_below()));
            } else if !self.cursor.eat("/")? {
                return Ok(left);
            }
            left = self.slash(left)?;
        }
    }

    fn slash(&mut self, left: Expr) -> Result<Expr, SyntaxError> {
        let height = self.height();
        let right = self.within(Self::step)?;
        self.raise(height.max(self.height()))?;
        Ok(Expr::Path(Box::new(left), Box::new(right)))
    }

    /// Whether a `/` has a step behind it.
    fn sees_step(&mut self) -> Result<bool, SyntaxError> {
        self.cursor.skip()?;
        let next = self.cursor.rest().chars().next();
        Ok(next.is_some_and(|next| {
            is_name_start(next) || matches!(next, '.' | '@' | '*' | '(' | '$' | '\'' | '"')
        }))
    }

    fn step(&mut self) -> Result<Expr, SyntaxError> {
        match self.axis_step()? {
            Some(step) => Ok(step),
            None => self.filter(),
        }
    }

    /// A step along an axis, if one comes next.
    fn axis_step(&mut self) -> Result<Option<Expr>, SyntaxError> {
        let (axis, test) = if self.cursor.eat("..")? {
            (Axis::Parent, NodeTest::Kind(KindTest::Any))
        } else if self.cursor.eat("@")? {
            (Axis::Attribute, self.node_test(true)?)
        } else if let Some(axis) = self.axis()? {
            (axis, self.node_test(axis == Axis::Attribute)?)
        } else if let Some(test) = self.kind_test()? {
            let axis = if matches!(test, KindTest::Attribute(_)) { Axis::Attribute } else { Axis::Child };
            (axis, NodeTest::Kind(test))
        } else if self.cursor.sees("*")? || self.sees_plain_name()? {
            (Axis::Child, NodeTest::Name(self.name_test(false)?))
        } else {
            return Ok(None);
        };
        self.look_at_context();
        self.lay();
        let predicates = self.predicates()?;
        Ok(Some(Expr::Step(Step { axis, test, predicates })))
    }

    fn axis(&mut self) -> Result<Option<Axis>, SyntaxError> {
        for (name, axis) in AXES {
            if self.cursor.sees_word_and(name, "::")? {
                self.cursor.want_word(name)?;
                self.cursor.want("::")?;
                return Ok(Some(axis));
            }
        }
        Ok(None)
    }

    fn node_test(&mut self, of_attribute: bool) -> Result<NodeTest, SyntaxError> {
        match self.kind_test()? {
            Some(test) => Ok(NodeTest::Kind(test)),
            None => self.name_test(of_attribute).map(NodeTest::Name),
        }
    }

    /// Whether a name comes next that nothing is called by.
    fn sees_plain_name(&mut self) -> Result<bool, SyntaxError> {
        self.cursor.skip()?;
        let place = self.cursor.place();
        let named = self.cursor.qname().is_some();
        let called = named && self.cursor.sees("(")?;
        self.cursor.go_back(place);
        Ok(named && !called)
    }

    fn predicates(&mut self) -> Result<Vec<Expr>, SyntaxError> {
        let (mut predicates, mut height) = (Vec::new(), self.height());
        while self.cursor.eat("[")? {
            predicates.push(self.within(Self::expressions)?);
            height = height.max(self.height());
            self.cursor.want("]")?;
        }
        if !predicates.is_empty() {
            self.raise(height)?;
        }
        Ok(predicates)
    }

    fn filter(&mut self) -> Result<Expr, SyntaxError> {
        let expr = self.primary()?;
        let predicates = self.predicates()?;
        Ok(if predicates.is_empty() { expr } else { Expr::Filter(Box::new(expr), predicates) })
    }

    fn primary(&mut self) -> Result<Expr, SyntaxError> {
        if let Some(literal) = self.literal()? {
            return Ok(literal);
        }
        if self.cursor.sees("$")? {
            return self.variable();
        }
        if self.cursor.eat("(")? {
            if self.cursor.eat(")")? {
                self.lay();
                return Ok(Expr::Sequence(Vec::new()));
            }
            let inner = self.expressions()?;
            self.cursor.want(")")?;
            return Ok(inner);
        }
        if self.cursor.eat(".")? {
            self.look_at_context();
            self.lay();
            return Ok(Expr::Context);
        }
        if self.cursor.sees("<")? {
            return self.cursor.error("constructors are not supported");
        }
        self.call()
    }

    fn call(&mut self) -> Result<Expr, SyntaxError> {
        self.cursor.skip()?;
        let place = self.cursor.place();
        let Some((prefix, local)) = self.cursor.qname() else { return self.cursor.expected("an expression") };
        if let Some((_, reason)) = NOT_THERE.iter().find(|(name, _)| prefix.is_none() && *name == local) {
            return self.cursor.error_at(place, *reason);
        }
        let arguments = self.arguments()?;
        let counted = format!("'{local}' with {} arguments", arguments.len());
        match self.library(place, prefix)? {
            Library::Functions => match functions::find(local, arguments.len()) {
                Some(function) => {
                    if function.looks_at_context(arguments.len()) {
                        self.look_at_context();
                    }
                    Ok(Expr::Call(function, arguments))
                }
                None => self.cursor.error_at(place, format!("there is no function {counted}")),
            },
            Library::Schema => match (AtomicType::named(local), <[Expr; 1]>::try_from(arguments)) {
                (Some(to), Ok([of])) => Ok(Expr::Cast(Box::new(of), to, true)),
                _ => self.cursor.error_at(place, format!("there is no type {counted}")),
            },
            Library::Other => self.cursor.error_at(place, format!("there is no function {counted}")),
        }
    }

    fn arguments(&mut self) -> Result<Vec<Expr>, SyntaxError> {
        let (mut arguments, mut height) = (Vec::new(), 0);
        self.cursor.want("(")?;
        if !self.cursor.eat(")")? {
            self.each_comma(|parser| {
                arguments.push(parser.expression()?);
                height = height.max(parser.height());
                Ok(())
            })?;
            self.cursor.want(")")?;
        }
        self.raise(height)?;
        Ok(arguments)
    }

    /// The context of the part that is being read makes a difference.
    fn look_at_context(&mut self) {
        self.uses_body |= self.foci == 0;
    }
}

/// `descendant-or-self::node()`
fn any_below() -> Expr {
    let test = NodeTest::Kind(KindTest::Any);
    Expr::Step(Step { axis: Axis::DescendantOrSelf, test, predicates: Vec::new() })
}
