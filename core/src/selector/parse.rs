//! From text to expression, by recursive descent:
//!
//! ```text
//! or         = and *( OR and )
//! and        = comparison *( AND comparison )
//! comparison = NOT comparison / sum [ relation ]
//! relation   = IS [ NOT ] NULL / ( "=" / "<>" / "<" / "<=" / ">" / ">=" ) sum / [ NOT ] special
//! special    = LIKE string [ ESCAPE string ] / BETWEEN sum AND sum / IN "(" sum *( "," sum ) ")"
//! sum        = product *( ( "+" / "-" ) product )
//! product    = unary *( ( "*" / "/" ) unary )
//! unary      = ( "+" / "-" ) unary / "(" or ")" / identifier / string / number / TRUE / FALSE
//! ```

use super::evaluate::Expression;
use super::identifier::Identifier;
use super::like::Pattern;
use super::token::{Kind, Lexer, Sign, Token, Word};
use super::value::{Comparison, Operation};
use super::{MAX_BYTES, MAX_DEPTH, MAX_PATTERN_BYTES, SelectorError, number};

type Parsed = Result<Expression, SelectorError>;

/// Compiles a selector; one without any token holds. Positions of errors are in bytes.
pub(super) fn parse(text: &str) -> Parsed {
    if text.len() > MAX_BYTES {
        return Err(SelectorError { position: MAX_BYTES, reason: "a selector of more than 65,535 bytes" });
    }
    let mut lexer = Lexer::new(text);
    let token = lexer.next()?;
    let mut parser = Parser { lexer, token, depth: 0 };
    if parser.token.kind == Kind::End {
        return Ok(Expression::Bool(true));
    }
    let expression = parser.or()?;
    match parser.token.kind {
        Kind::End => Ok(expression),
        _ => parser.error("something after the end"),
    }
}

struct Parser<'t> {
    lexer: Lexer<'t>,
    /// The token not taken yet.
    token: Token<'t>,
    depth: usize,
}

impl<'t> Parser<'t> {
    fn error<T>(&self, reason: &'static str) -> Result<T, SelectorError> {
        Err(SelectorError { position: self.token.position, reason })
    }

    /// Takes the token.
    fn take(&mut self) -> Result<Kind<'t>, SelectorError> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.token, next).kind)
    }

    /// Takes the token if it is this one.
    fn take_if(&mut self, kind: &Kind<'_>) -> Result<bool, SelectorError> {
        let is_it = self.token.kind == *kind;
        if is_it {
            self.take()?;
        }
        Ok(is_it)
    }

    fn take_word(&mut self, word: Word) -> Result<bool, SelectorError> {
        self.take_if(&Kind::Word(word))
    }

    fn take_sign(&mut self, sign: Sign) -> Result<bool, SelectorError> {
        self.take_if(&Kind::Sign(sign))
    }

    /// Parses something that lies within something else.
    fn within(&mut self, parse: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        if self.depth == MAX_DEPTH {
            return self.error("nested more than 100 deep");
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn or(&mut self) -> Parsed {
        self.chain(Word::Or, Self::and, Expression::Or)
    }

    fn and(&mut self) -> Parsed {
        self.chain(Word::And, Self::comparison, Expression::And)
    }

    /// Operands with this word between them; one alone is itself.
    fn chain(
        &mut self,
        word: Word,
        operand: impl Fn(&mut Self) -> Parsed,
        of: impl FnOnce(Box<[Expression]>) -> Expression,
    ) -> Parsed {
        let first = operand(self)?;
        if self.token.kind != Kind::Word(word) {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.take_word(word)? {
            operands.push(operand(self)?);
        }
        Ok(of(operands.into()))
    }

    fn comparison(&mut self) -> Parsed {
        if self.take_word(Word::Not)? {
            return Ok(Expression::Not(Box::new(self.within(Self::comparison)?)));
        }
        let left = self.sum()?;
        if self.take_word(Word::Is)? {
            return self.null(left);
        }
        if self.take_word(Word::Not)? {
            return self.special(left, true);
        }
        let comparison = match self.token.kind {
            Kind::Word(Word::Between | Word::Like | Word::In) => return self.special(left, false),
            Kind::Sign(Sign::Equal) => Comparison::Equal,
            Kind::Sign(Sign::Unequal) => Comparison::Unequal,
            Kind::Sign(Sign::Less) => Comparison::Less,
            Kind::Sign(Sign::LessOrEqual) => Comparison::LessOrEqual,
            Kind::Sign(Sign::Greater) => Comparison::Greater,
            Kind::Sign(Sign::GreaterOrEqual) => Comparison::GreaterOrEqual,
            _ => return Ok(left),
        };
        self.take()?;
        Ok(Expression::Compare(comparison, Box::new([left, self.sum()?])))
    }

    fn null(&mut self, operand: Expression) -> Parsed {
        let negated = self.take_word(Word::Not)?;
        if !self.take_word(Word::Null)? {
            return self.error("expected NULL or NOT NULL after IS");
        }
        Ok(negate_if(negated, Expression::IsNull(Box::new(operand))))
    }

    fn special(&mut self, operand: Expression, negated: bool) -> Parsed {
        if self.take_word(Word::Like)? {
            let pattern = self.pattern()?;
            return Ok(negate_if(negated, Expression::Like(Box::new(operand), pattern)));
        }
        if self.take_word(Word::Between)? {
            let least = self.sum()?;
            if !self.take_word(Word::And)? {
                return self.error("expected AND after BETWEEN");
            }
            let between = Expression::Between(Box::new([operand, least, self.sum()?]));
            return Ok(negate_if(negated, between));
        }
        if !self.take_word(Word::In)? {
            return self.error("expected LIKE, IN or BETWEEN");
        }
        let (operand, list) = (Box::new(operand), self.list()?);
        Ok(if negated { Expression::NotIn(operand, list) } else { Expression::In(operand, list) })
    }

    fn list(&mut self) -> Result<Box<[Expression]>, SelectorError> {
        if !self.take_sign(Sign::Open)? {
            return self.error("missing '(' after IN");
        }
        let mut list = vec![self.sum()?];
        while self.take_sign(Sign::Comma)? {
            list.push(self.sum()?);
        }
        if !self.take_sign(Sign::Close)? {
            return self.error("missing ',' or ')' after IN");
        }
        Ok(list.into())
    }

    fn pattern(&mut self) -> Result<Pattern, SelectorError> {
        let Kind::Text(pattern) = &mut self.token.kind else {
            return self.error("expected a string after LIKE");
        };
        let pattern = std::mem::take(pattern);
        if pattern.len() > MAX_PATTERN_BYTES {
            return self.error("a pattern of more than 1,024 bytes");
        }
        self.take()?;
        let escape = if self.take_word(Word::Escape)? { self.escape()? } else { None };
        Ok(Pattern::new(&pattern, escape))
    }

    fn escape(&mut self) -> Result<Option<u8>, SelectorError> {
        let escape = match &self.token.kind {
            Kind::Text(text) => match text[..] {
                [] => None,
                [b'%' | b'_'] => return self.error("'%' and '_' cannot be escape characters"),
                [escape] if escape.is_ascii() => Some(escape),
                _ => return self.error("expected a string of one ASCII character after ESCAPE"),
            },
            _ => return self.error("expected a string after ESCAPE"),
        };
        self.take()?;
        Ok(escape)
    }

    fn sum(&mut self) -> Parsed {
        let signs = [(Sign::Plus, Operation::Add), (Sign::Minus, Operation::Subtract)];
        self.calculation(signs, Self::product)
    }

    fn product(&mut self) -> Parsed {
        let signs = [(Sign::Times, Operation::Multiply), (Sign::Divide, Operation::Divide)];
        self.calculation(signs, Self::unary)
    }

    /// Operands with these signs between them, from left to right.
    fn calculation(
        &mut self,
        signs: [(Sign, Operation); 2],
        operand: impl Fn(&mut Self) -> Parsed,
    ) -> Parsed {
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Some(&(_, operation)) = signs.iter().find(|(sign, _)| self.token.kind == Kind::Sign(*sign))
        {
            self.take()?;
            rest.push((operation, operand(self)?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        Ok(Expression::Calculate(Box::new(first), rest.into()))
    }

    fn unary(&mut self) -> Parsed {
        if self.take_sign(Sign::Plus)? {
            return self.within(Self::unary);
        }
        if self.take_sign(Sign::Minus)? {
            return match self.token.kind {
                // The least integer has no positive counterpart.
                Kind::Exact(written) => self.exact(written, true),
                _ => Ok(Expression::Negate(Box::new(self.within(Self::unary)?))),
            };
        }
        if self.take_sign(Sign::Open)? {
            let inner = self.within(Self::or)?;
            if !self.take_sign(Sign::Close)? {
                return self.error("missing ')' after '('");
            }
            return Ok(inner);
        }
        self.primary()
    }

    fn primary(&mut self) -> Parsed {
        let primary = match &self.token.kind {
            Kind::Identifier(name) => Expression::Identifier(Identifier::new(name)),
            Kind::Text(text) => Expression::Text(text.as_slice().into()),
            Kind::Word(Word::True) => Expression::Bool(true),
            Kind::Word(Word::False) => Expression::Bool(false),
            &Kind::Exact(written) => return self.exact(written, false),
            Kind::Inexact(written) => match number::inexact(written) {
                Some(value) => Expression::Inexact(value),
                None => return self.error("a floating-point number too large or too small"),
            },
            _ => return self.error("expected a literal or an identifier"),
        };
        self.take()?;
        Ok(primary)
    }

    /// The integer that is the token.
    fn exact(&mut self, written: &str, negative: bool) -> Parsed {
        let Some(value) = number::exact(written, negative) else {
            return self.error("an integer too large");
        };
        self.take()?;
        Ok(Expression::Exact(value))
    }
}

fn negate_if(negated: bool, expression: Expression) -> Expression {
    if negated { Expression::Not(Box::new(expression)) } else { expression }
}
