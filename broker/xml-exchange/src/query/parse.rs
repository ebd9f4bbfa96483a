//! From text to what it means: everything but the prolog and paths.

use super::SyntaxError;
use super::ast::{Clause, Comparison, Expr, Module, Operator, OrderKey};
use super::cursor::Cursor;
use super::types::AtomicType;
use super::value::Atomic;

/// A whole query.
pub fn module(text: &str) -> Result<Module, SyntaxError> {
    Parser::new(text).module()
}

pub(super) struct Parser<'t> {
    pub(super) cursor: Cursor<'t>,
    pub(super) names: super::prolog::Names,
    /// Variables in scope, innermost last.
    scope: Vec<(String, u32)>,
    slots: u32,
    /// Of the part that was read last: how much it contains one in the other.
    height: u32,
    /// How many parts around this one give it a context of their own.
    pub(super) foci: u32,
    pub(super) uses_body: bool,
}

/// Operators that bind equally, and how they are written; words stand alone.
type Level = &'static [(&'static str, Operator)];

const GENERAL: Level = &[
    ("!=", Operator::General(Comparison::NotEqual)),
    ("<=", Operator::General(Comparison::LessOrEqual)),
    (">=", Operator::General(Comparison::GreaterOrEqual)),
    ("<<", Operator::Precedes),
    (">>", Operator::Follows),
    ("=", Operator::General(Comparison::Equal)),
    ("<", Operator::General(Comparison::Less)),
    (">", Operator::General(Comparison::Greater)),
    ("eq", Operator::Value(Comparison::Equal)),
    ("ne", Operator::Value(Comparison::NotEqual)),
    ("lt", Operator::Value(Comparison::Less)),
    ("le", Operator::Value(Comparison::LessOrEqual)),
    ("gt", Operator::Value(Comparison::Greater)),
    ("ge", Operator::Value(Comparison::GreaterOrEqual)),
    ("is", Operator::Is),
];

/// Levels whose operators may follow each other, from the loosest; comparisons and ranges, which may not, lie between.
const ADDITIVE: Level = &[("+", Operator::Add), ("-", Operator::Subtract)];
const MULTIPLICATIVE: Level = &[
    ("*", Operator::Multiply),
    ("div", Operator::Divide),
    ("idiv", Operator::IntegerDivide),
    ("mod", Operator::Modulo),
];
const UNION: Level = &[("union", Operator::Union), ("|", Operator::Union)];
const INTERSECT: Level = &[("intersect", Operator::Intersect), ("except", Operator::Except)];

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Self {
        Parser {
            cursor: Cursor::new(text),
            names: super::prolog::Names::default(),
            scope: Vec::new(),
            slots: 0,
            height: 0,
            foci: 0,
            uses_body: false,
        }
    }

    fn module(mut self) -> Result<Module, SyntaxError> {
        let globals = self.prolog()?;
        let body = self.expressions()?;
        if !self.cursor.is_at_end()? {
            return self.cursor.expected("an operator or the end");
        }
        Ok(Module { globals, body, slots: self.slots, uses_body: self.uses_body })
    }

    /// Expressions with commas between them.
    pub(super) fn expressions(&mut self) -> Result<Expr, SyntaxError> {
        let first = self.expression()?;
        if !self.cursor.sees(",")? {
            return Ok(first);
        }
        let (mut all, mut height) = (vec![first], self.height);
        while self.cursor.eat(",")? {
            all.push(self.expression()?);
            height = height.max(self.height);
        }
        self.raise(height)?;
        Ok(Expr::Sequence(all))
    }

    /// What stands between commas.
    pub(super) fn expression(&mut self) -> Result<Expr, SyntaxError> {
        self.cursor.enter()?;
        let expr = if self.cursor.sees_word_and("for", "$")? || self.cursor.sees_word_and("let", "$")? {
            self.flwor()
        } else if self.cursor.sees_word_and("some", "$")? || self.cursor.sees_word_and("every", "$")? {
            self.quantified()
        } else if self.cursor.sees_word_and("if", "(")? {
            self.conditional()
        } else {
            self.or()
        };
        self.cursor.leave();
        expr
    }

    fn flwor(&mut self) -> Result<Expr, SyntaxError> {
        let outer = self.scope.len();
        let (mut clauses, mut height) = (Vec::new(), 0);
        loop {
            if self.cursor.sees_word_and("for", "$")? {
                self.cursor.want_word("for")?;
                self.each_comma(|parser| {
                    let clause = parser.for_clause()?;
                    height = height.max(parser.height);
                    clauses.push(clause);
                    Ok(())
                })?;
            } else if self.cursor.sees_word_and("let", "$")? {
                self.cursor.want_word("let")?;
                self.each_comma(|parser| {
                    let name = parser.variable_name()?;
                    parser.skip_type()?;
                    parser.cursor.want(":=")?;
                    let value = parser.expression()?;
                    height = height.max(parser.height);
                    clauses.push(Clause::Let { slot: parser.declare(name), value });
                    Ok(())
                })?;
            } else if self.cursor.eat_word("where")? {
                clauses.push(Clause::Where(self.expression()?));
                height = height.max(self.height);
            } else if self.cursor.eat_words(&["order", "by"])?
                || self.cursor.eat_words(&["stable", "order", "by"])?
            {
                let keys = self.order_keys()?;
                height = height.max(self.height);
                clauses.push(Clause::OrderBy(keys));
            } else {
                break;
            }
        }
        if !self.cursor.eat_word("return")? {
            return self.cursor.expected("'for', 'let', 'where', 'order by' or 'return'");
        }
        let result = self.expression()?;
        self.scope.truncate(outer);
        // Each clause is a level of its own when it is worked out.
        self.raise(height.max(self.height) + clauses.len() as u32)?;
        Ok(Expr::Flwor(clauses, Box::new(result)))
    }

    fn for_clause(&mut self) -> Result<Clause, SyntaxError> {
        let name = self.variable_name()?;
        self.skip_type()?;
        let position = if self.cursor.eat_word("at")? { Some(self.variable_name()?) } else { None };
        self.cursor.want_word("in")?;
        let items = self.expression()?;
        let slot = self.declare(name);
        Ok(Clause::For { slot, position: position.map(|name| self.declare(name)), items })
    }

    fn order_keys(&mut self) -> Result<Vec<OrderKey>, SyntaxError> {
        let (mut keys, mut height) = (Vec::new(), 0);
        self.each_comma(|parser| {
            let key = parser.expression()?;
            height = height.max(parser.height);
            let descending = parser.cursor.eat_word("descending")?;
            if !descending {
                parser.cursor.eat_word("ascending")?;
            }
            let empty_greatest = parser.cursor.eat_words(&["empty", "greatest"])?;
            if !empty_greatest {
                parser.cursor.eat_words(&["empty", "least"])?;
            }
            keys.push(OrderKey { key, descending, empty_greatest });
            Ok(())
        })?;
        self.height = height;
        Ok(keys)
    }

    fn quantified(&mut self) -> Result<Expr, SyntaxError> {
        let outer = self.scope.len();
        let every = self.cursor.eat_word("every")?;
        if !every {
            self.cursor.want_word("some")?;
        }
        let (mut bindings, mut height) = (Vec::new(), 0);
        self.each_comma(|parser| {
            let name = parser.variable_name()?;
            parser.skip_type()?;
            parser.cursor.want_word("in")?;
            let items = parser.expression()?;
            height = height.max(parser.height);
            bindings.push((parser.declare(name), items));
            Ok(())
        })?;
        self.cursor.want_word("satisfies")?;
        let satisfies = Box::new(self.expression()?);
        self.scope.truncate(outer);
        // Each binding is a level of its own when it is worked out.
        self.raise(height.max(self.height) + bindings.len() as u32)?;
        Ok(Expr::Quantified { every, bindings, satisfies })
    }

    fn conditional(&mut self) -> Result<Expr, SyntaxError> {
        self.cursor.want_word("if")?;
        self.cursor.want("(")?;
        let condition = self.expressions()?;
        let mut height = self.height;
        self.cursor.want(")")?;
        self.cursor.want_word("then")?;
        let then = self.expression()?;
        height = height.max(self.height);
        self.cursor.want_word("else")?;
        let otherwise = self.expression()?;
        self.raise(height.max(self.height))?;
        Ok(Expr::If(Box::new(condition), Box::new(then), Box::new(otherwise)))
    }

    fn or(&mut self) -> Result<Expr, SyntaxError> {
        self.row("or", Self::and, Expr::Or)
    }

    fn and(&mut self) -> Result<Expr, SyntaxError> {
        self.row("and", Self::comparison, Expr::And)
    }

    /// However many operands with a word between them.
    fn row(
        &mut self,
        word: &str,
        operand: fn(&mut Self) -> Result<Expr, SyntaxError>,
        of: fn(Vec<Expr>) -> Expr,
    ) -> Result<Expr, SyntaxError> {
        let first = operand(self)?;
        if !self.cursor.eat_word(word)? {
            return Ok(first);
        }
        let (mut all, mut height) = (vec![first], self.height);
        loop {
            all.push(operand(self)?);
            height = height.max(self.height);
            if !self.cursor.eat_word(word)? {
                self.raise(height)?;
                return Ok(of(all));
            }
        }
    }

    fn comparison(&mut self) -> Result<Expr, SyntaxError> {
        self.once(GENERAL, Self::concatenation)
    }

    fn concatenation(&mut self) -> Result<Expr, SyntaxError> {
        self.chain(&[("||", Operator::Concat)], Self::range)
    }

    fn range(&mut self) -> Result<Expr, SyntaxError> {
        self.once(&[("to", Operator::Range)], Self::additive)
    }

    fn additive(&mut self) -> Result<Expr, SyntaxError> {
        self.chain(ADDITIVE, Self::multiplicative)
    }

    fn multiplicative(&mut self) -> Result<Expr, SyntaxError> {
        self.chain(MULTIPLICATIVE, Self::union)
    }

    fn union(&mut self) -> Result<Expr, SyntaxError> {
        self.chain(UNION, Self::intersection)
    }

    fn intersection(&mut self) -> Result<Expr, SyntaxError> {
        self.chain(INTERSECT, Self::instance_of)
    }

    fn instance_of(&mut self) -> Result<Expr, SyntaxError> {
        let mut expr = self.cast()?;
        if self.cursor.eat_words(&["instance", "of"])? {
            expr = Expr::InstanceOf(Box::new(expr), self.sequence_type()?);
            self.raise(self.height)?;
        }
        Ok(expr)
    }

    /// `treat as`, `castable as`, `cast as`, each at most once.
    fn cast(&mut self) -> Result<Expr, SyntaxError> {
        let mut expr = self.unary()?;
        let height = self.height;
        if self.cursor.eat_words(&["cast", "as"])? {
            let (to, optional) = self.single_type()?;
            expr = Expr::Cast(Box::new(expr), to, optional);
        }
        if self.cursor.eat_words(&["castable", "as"])? {
            let (to, optional) = self.single_type()?;
            expr = Expr::Castable(Box::new(expr), to, optional);
        }
        if self.cursor.eat_words(&["treat", "as"])? {
            expr = Expr::TreatAs(Box::new(expr), self.sequence_type()?);
        }
        self.raise(height + 2)?;
        Ok(expr)
    }

    fn unary(&mut self) -> Result<Expr, SyntaxError> {
        let (mut signs, mut negative) = (false, false);
        loop {
            if self.cursor.eat("-")? {
                negative = !negative;
            } else if !self.cursor.eat("+")? {
                break;
            }
            signs = true;
        }
        let operand = self.map()?;
        if !signs {
            return Ok(operand);
        }
        self.raise(self.height)?;
        Ok(if negative { Expr::Negate(Box::new(operand)) } else { Expr::Number(Box::new(operand)) })
    }

    fn map(&mut self) -> Result<Expr, SyntaxError> {
        let mut left = self.path()?;
        while self.cursor.sees("!")? && !self.cursor.sees("!=")? {
            let height = self.height;
            self.cursor.want("!")?;
            let right = self.within(Self::path)?;
            self.raise(height.max(self.height))?;
            left = Expr::Map(Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    /// A type with `?` if it may be missing.
    fn single_type(&mut self) -> Result<(AtomicType, bool), SyntaxError> {
        let of = self.atomic_type()?;
        Ok((of, self.cursor.eat("?")?))
    }

    /// Operands with operators of one level between them, from left to right.
    fn chain(
        &mut self,
        level: Level,
        operand: fn(&mut Self) -> Result<Expr, SyntaxError>,
    ) -> Result<Expr, SyntaxError> {
        let mut left = operand(self)?;
        while let Some(operator) = self.operator(level)? {
            left = self.join(left, operator, operand)?;
        }
        Ok(left)
    }

    /// One operand, or two with an operator between them.
    fn once(
        &mut self,
        level: Level,
        operand: fn(&mut Self) -> Result<Expr, SyntaxError>,
    ) -> Result<Expr, SyntaxError> {
        let left = operand(self)?;
        match self.operator(level)? {
            Some(operator) => self.join(left, operator, operand),
            None => Ok(left),
        }
    }

    fn join(
        &mut self,
        left: Expr,
        operator: Operator,
        operand: fn(&mut Self) -> Result<Expr, SyntaxError>,
    ) -> Result<Expr, SyntaxError> {
        let height = self.height;
        let right = operand(self)?;
        self.raise(height.max(self.height))?;
        Ok(Expr::Binary(operator, Box::new(left), Box::new(right)))
    }

    fn operator(&mut self, level: Level) -> Result<Option<Operator>, SyntaxError> {
        for &(text, operator) in level {
            let found = match text.starts_with(super::cursor::is_name_start) {
                true => self.cursor.eat_word(text)?,
                // One bar of two is no operator.
                false => !(text == "|" && self.cursor.sees("||")?) && self.cursor.eat(text)?,
            };
            if found {
                return Ok(Some(operator));
            }
        }
        Ok(None)
    }

    /// Something for each of several, with commas between them.
    pub(super) fn each_comma(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<(), SyntaxError>,
    ) -> Result<(), SyntaxError> {
        loop {
            one(self)?;
            if !self.cursor.eat(",")? {
                return Ok(());
            }
        }
    }

    /// Reads a part that has a context of its own.
    pub(super) fn within<T>(
        &mut self,
        part: impl FnOnce(&mut Self) -> Result<T, SyntaxError>,
    ) -> Result<T, SyntaxError> {
        self.foci += 1;
        let read = part(self);
        self.foci -= 1;
        read
    }

    /// What was just read contains a part of that height.
    pub(super) fn raise(&mut self, height: u32) -> Result<(), SyntaxError> {
        self.height = height + 1;
        self.cursor.check_height(self.height)
    }

    pub(super) fn height(&self) -> u32 {
        self.height
    }

    /// What was just read contains nothing.
    pub(super) fn lay(&mut self) {
        self.height = 1;
    }

    /// A variable's name behind its `$`.
    pub(super) fn variable_name(&mut self) -> Result<String, SyntaxError> {
        self.cursor.want("$")?;
        self.cursor.skip()?;
        match self.cursor.qname() {
            Some((Some(prefix), local)) => Ok(format!("{prefix}:{local}")),
            Some((None, local)) => Ok(local.into()),
            None => self.cursor.expected("a variable's name"),
        }
    }

    /// A variable comes into scope.
    pub(super) fn declare(&mut self, name: String) -> u32 {
        let slot = self.slots;
        self.slots += 1;
        self.scope.push((name, slot));
        slot
    }

    pub(super) fn variable(&mut self) -> Result<Expr, SyntaxError> {
        let place = self.cursor.place();
        let name = self.variable_name()?;
        self.lay();
        match self.scope.iter().rev().find(|(known, _)| *known == name) {
            Some((_, slot)) => Ok(Expr::Variable(*slot)),
            None => self.cursor.error_at(place, format!("the variable ${name} is not declared")),
        }
    }

    /// Number or string.
    pub(super) fn literal(&mut self) -> Result<Option<Expr>, SyntaxError> {
        self.lay();
        if self.cursor.sees("\"")? || self.cursor.sees("'")? {
            return Ok(Some(Expr::Literal(Atomic::text(&self.cursor.string()?))));
        }
        let place = self.cursor.place();
        let Some(digits) = self.cursor.number() else { return Ok(None) };
        if self.cursor.rest().starts_with(super::cursor::is_name_start) {
            return self.cursor.error("a name right behind a number");
        }
        let value = if digits.contains(['e', 'E']) {
            digits.parse().ok().map(Atomic::Double)
        } else if digits.contains('.') {
            digits.parse().ok().map(Atomic::Decimal)
        } else {
            digits.parse().ok().map(Atomic::Integer)
        };
        match value {
            Some(value) => Ok(Some(Expr::Literal(value))),
            None => self.cursor.error_at(place, "the number is too large"),
        }
    }
}
