//! Words, numbers and signs of a selector.

use super::SelectorError;

/// A token with the place where it starts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token<'t> {
    pub position: usize,
    pub kind: Kind<'t>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind<'t> {
    /// A name, quoted or not.
    Identifier(Vec<u8>),
    /// The content of a string.
    Text(Vec<u8>),
    /// An integer as written.
    Exact(&'t str),
    /// A floating-point number as written.
    Inexact(&'t str),
    Word(Word),
    Sign(Sign),
    /// The end of the selector.
    End,
}

/// Reserved words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    And,
    Between,
    Escape,
    False,
    In,
    Is,
    Like,
    Not,
    Null,
    Or,
    True,
}

const WORDS: [(&str, Word); 11] = [
    ("and", Word::And),
    ("between", Word::Between),
    ("escape", Word::Escape),
    ("false", Word::False),
    ("in", Word::In),
    ("is", Word::Is),
    ("like", Word::Like),
    ("not", Word::Not),
    ("null", Word::Null),
    ("or", Word::Or),
    ("true", Word::True),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Open,
    Close,
    Comma,
    Plus,
    Minus,
    Times,
    Divide,
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Takes the tokens off a text, one after the other.
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    pub fn new(text: &'t str) -> Self {
        Lexer { text, at: 0 }
    }

    /// The next token; [`Kind::End`] again and again at the end.
    pub fn next(&mut self) -> Result<Token<'t>, SelectorError> {
        while self.peek(0).is_some_and(is_space) {
            self.at += 1;
        }
        let position = self.at;
        let kind = match self.peek(0) {
            None => Kind::End,
            Some(b'\'') => Kind::Text(self.quoted(b'\'', "a string without an end")?),
            Some(b'"') => Kind::Identifier(self.quoted(b'"', "a quoted identifier without an end")?),
            Some(byte) if starts_identifier(byte) => self.word(),
            Some(b'0'..=b'9' | b'.') => self.number()?,
            Some(byte) => Kind::Sign(self.sign(byte)?),
        };
        Ok(Token { position, kind })
    }

    /// The byte so many places further.
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn error<T>(&self, reason: &'static str) -> Result<T, SelectorError> {
        Err(SelectorError { position: self.at, reason })
    }

    /// What is between quotes; two in a row stand for one.
    fn quoted(&mut self, quote: u8, unended: &'static str) -> Result<Vec<u8>, SelectorError> {
        let mut content = Vec::new();
        let mut rest = &self.text.as_bytes()[self.at + 1..];
        loop {
            let Some(end) = rest.iter().position(|&byte| byte == quote) else { return self.error(unended) };
            content.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            if rest.first() != Some(&quote) {
                break;
            }
            content.push(quote);
            rest = &rest[1..];
        }
        self.at = self.text.len() - rest.len();
        Ok(content)
    }

    fn word(&mut self) -> Kind<'t> {
        let word = self.run(|byte| starts_identifier(byte) || byte.is_ascii_digit() || byte == b'.');
        match WORDS.iter().find(|(reserved, _)| word.eq_ignore_ascii_case(reserved)) {
            Some(&(_, reserved)) => Kind::Word(reserved),
            None => Kind::Identifier(word.as_bytes().to_vec()),
        }
    }

    /// Takes all bytes that belong, which are ASCII.
    fn run(&mut self, belongs: impl Fn(u8) -> bool) -> &'t str {
        let start = self.at;
        while self.peek(0).is_some_and(&belongs) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    /// Takes the byte if it is one of these, in any case.
    fn take(&mut self, any_of: &[u8]) -> bool {
        let found = self.peek(0).is_some_and(|byte| any_of.contains(&byte.to_ascii_lowercase()));
        self.at += usize::from(found);
        found
    }

    fn number(&mut self) -> Result<Kind<'t>, SelectorError> {
        let start = self.at;
        let is_exact = match (self.peek(0), self.peek(1)) {
            (Some(b'0'), Some(b'x' | b'X')) => self.prefixed(|byte| byte.is_ascii_hexdigit())?,
            (Some(b'0'), Some(b'b' | b'B')) => self.prefixed(|byte| matches!(byte, b'0' | b'1'))?,
            (Some(b'0'), Some(b'.')) => self.decimal()?,
            (Some(b'0'), _) => {
                self.run(|byte| matches!(byte, b'0'..=b'7' | b'_'));
                self.take(b"l");
                true
            }
            _ => self.decimal()?,
        };
        let written = &self.text[start..self.at];
        Ok(if is_exact { Kind::Exact(written) } else { Kind::Inexact(written) })
    }

    /// A number of another base; one of hexadecimal digits may have an exponent. Whether it is exact.
    fn prefixed(&mut self, is_digit: impl Fn(u8) -> bool) -> Result<bool, SelectorError> {
        self.at += 2;
        if !self.peek(0).is_some_and(&is_digit) {
            return self.error("a number without digits");
        }
        self.run(|byte| is_digit(byte) || byte == b'_');
        if is_digit(b'f') && self.take(b"p") {
            return self.exponent();
        }
        self.take(b"l");
        Ok(true)
    }

    /// A decimal number, with or without a point. Whether it is exact.
    fn decimal(&mut self) -> Result<bool, SelectorError> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || byte == b'_';
        let whole = self.run(is_digit);
        let has_point = self.take(b".");
        if has_point {
            if whole.is_empty() && !self.peek(0).is_some_and(|byte| byte.is_ascii_digit()) {
                return self.error("a point without digits");
            }
            self.run(is_digit);
        }
        if self.take(b"e") {
            return self.exponent();
        }
        if self.take(b"fd") {
            return Ok(false);
        }
        if !has_point {
            self.take(b"l");
        }
        Ok(!has_point)
    }

    fn exponent(&mut self) -> Result<bool, SelectorError> {
        self.take(b"+-");
        if self.run(|byte| byte.is_ascii_digit()).is_empty() {
            return self.error("an exponent without digits");
        }
        self.take(b"fd");
        Ok(false)
    }

    fn sign(&mut self, byte: u8) -> Result<Sign, SelectorError> {
        let (sign, bytes) = match (byte, self.peek(1)) {
            (b'(', _) => (Sign::Open, 1),
            (b')', _) => (Sign::Close, 1),
            (b',', _) => (Sign::Comma, 1),
            (b'+', _) => (Sign::Plus, 1),
            (b'-', _) => (Sign::Minus, 1),
            (b'*', _) => (Sign::Times, 1),
            (b'/', _) => (Sign::Divide, 1),
            (b'=', _) => (Sign::Equal, 1),
            (b'<', Some(b'>')) => (Sign::Unequal, 2),
            (b'<', Some(b'=')) => (Sign::LessOrEqual, 2),
            (b'<', _) => (Sign::Less, 1),
            (b'>', Some(b'=')) => (Sign::GreaterOrEqual, 2),
            (b'>', _) => (Sign::Greater, 1),
            _ => return self.error("an illegal character"),
        };
        self.at += bytes;
        Ok(sign)
    }
}

/// White space, the vertical tabulator included.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0B
}

fn starts_identifier(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte == b'$'
}
