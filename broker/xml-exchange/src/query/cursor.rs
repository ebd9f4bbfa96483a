//! A place in the text of a query, and the smallest things that can stand there.

use super::SyntaxError;

/// Most that a part of a query may contain another; bounds how deep working it out goes.
const MAX_HEIGHT: u32 = 160;
/// Most brackets in brackets; bounds how deep reading it goes, which takes many calls for each.
const MAX_DEPTH: u32 = 48;
const TOO_DEEP: &str = "the query is nested too deeply";

pub struct Cursor<'t> {
    text: &'t str,
    at: usize,
    /// How deep the part lies that is being read.
    depth: u32,
}

impl<'t> Cursor<'t> {
    pub fn new(text: &'t str) -> Self {
        Cursor { text, at: 0, depth: 0 }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    pub fn place(&self) -> usize {
        self.at
    }

    pub fn go_back(&mut self, place: usize) {
        self.at = place;
    }

    /// An error here.
    pub fn error<T>(&self, reason: impl Into<String>) -> Result<T, SyntaxError> {
        self.error_at(self.at, reason)
    }

    pub fn error_at<T>(&self, place: usize, reason: impl Into<String>) -> Result<T, SyntaxError> {
        let before = &self.text[..place];
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = before.matches('\n').count() + 1;
        let column = before[line_start..].chars().count() + 1;
        Err(SyntaxError { line, column, reason: reason.into() })
    }

    /// An error because something else should stand here.
    pub fn expected<T>(&self, what: &str) -> Result<T, SyntaxError> {
        match self.rest().chars().next() {
            None => self.error(format!("expected {what}, and the query ends")),
            Some(found) => self.error(format!("expected {what}, found '{found}'")),
        }
    }

    /// Goes in for a part of the query that is read in one go.
    pub fn enter(&mut self) -> Result<(), SyntaxError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { self.error(TOO_DEEP) } else { Ok(()) }
    }

    pub fn leave(&mut self) {
        self.depth -= 1;
    }

    pub fn check_height(&self, height: u32) -> Result<(), SyntaxError> {
        if height > MAX_HEIGHT { self.error(TOO_DEEP) } else { Ok(()) }
    }

    /// Passes blanks and comments, which nest.
    pub fn skip(&mut self) -> Result<(), SyntaxError> {
        loop {
            let trimmed = self.rest().trim_start_matches([' ', '\t', '\r', '\n']);
            self.at = self.text.len() - trimmed.len();
            if !trimmed.starts_with("(:") {
                return Ok(());
            }
            self.skip_comment()?;
        }
    }

    fn skip_comment(&mut self) -> Result<(), SyntaxError> {
        let start = self.at;
        let mut open = 0;
        loop {
            let rest = self.rest();
            if rest.starts_with("(:") {
                (open, self.at) = (open + 1, self.at + 2);
            } else if rest.starts_with(":)") {
                (open, self.at) = (open - 1, self.at + 2);
                if open == 0 {
                    return Ok(());
                }
            } else {
                match rest.chars().next() {
                    Some(other) => self.at += other.len_utf8(),
                    None => return self.error_at(start, "the comment does not end"),
                }
            }
        }
    }

    pub fn is_at_end(&mut self) -> Result<bool, SyntaxError> {
        self.skip()?;
        Ok(self.rest().is_empty())
    }

    /// Whether these characters come next.
    pub fn sees(&mut self, symbol: &str) -> Result<bool, SyntaxError> {
        self.skip()?;
        Ok(self.rest().starts_with(symbol))
    }

    /// Passes these characters if they come next.
    pub fn eat(&mut self, symbol: &str) -> Result<bool, SyntaxError> {
        let found = self.sees(symbol)?;
        if found {
            self.at += symbol.len();
        }
        Ok(found)
    }

    pub fn want(&mut self, symbol: &str) -> Result<(), SyntaxError> {
        if self.eat(symbol)? { Ok(()) } else { self.expected(&format!("'{symbol}'")) }
    }

    /// Passes a word if it comes next, whole.
    pub fn eat_word(&mut self, word: &str) -> Result<bool, SyntaxError> {
        self.skip()?;
        let place = self.at;
        let found = self.ncname() == Some(word);
        if !found {
            self.at = place;
        }
        Ok(found)
    }

    /// Passes words if they come next, all of them.
    pub fn eat_words(&mut self, words: &[&str]) -> Result<bool, SyntaxError> {
        self.skip()?;
        let place = self.at;
        for word in words {
            if !self.eat_word(word)? {
                self.at = place;
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub fn want_word(&mut self, word: &str) -> Result<(), SyntaxError> {
        if self.eat_word(word)? { Ok(()) } else { self.expected(&format!("'{word}'")) }
    }

    /// Whether a word comes next, and then this symbol.
    pub fn sees_word_and(&mut self, word: &str, symbol: &str) -> Result<bool, SyntaxError> {
        self.skip()?;
        let place = self.at;
        let found = self.eat_word(word)? && self.sees(symbol)?;
        self.at = place;
        Ok(found)
    }

    /// A name without prefix, right here.
    pub fn ncname(&mut self) -> Option<&'t str> {
        let rest = self.rest();
        let mut characters = rest.char_indices();
        characters.next().filter(|(_, first)| is_name_start(*first))?;
        let end = characters.find(|(_, other)| !is_name_character(*other)).map_or(rest.len(), |(end, _)| end);
        self.at += end;
        Some(&rest[..end])
    }

    /// A name, right here: prefix, if it has one, and local part.
    pub fn qname(&mut self) -> Option<(Option<&'t str>, &'t str)> {
        let first = self.ncname()?;
        let place = self.at;
        if self.rest().starts_with(':') && !self.rest().starts_with("::") && !self.rest().starts_with(":=") {
            self.at += 1;
            if let Some(local) = self.ncname() {
                return Some((Some(first), local));
            }
            self.at = place;
        }
        Some((None, first))
    }

    /// A string in quotes; a quote inside is doubled, and the predefined entities are known.
    pub fn string(&mut self) -> Result<String, SyntaxError> {
        self.skip()?;
        let start = self.at;
        let Some(quote) = self.rest().chars().next().filter(|first| matches!(first, '"' | '\'')) else {
            return self.expected("a string");
        };
        self.at += 1;
        let mut string = String::new();
        loop {
            let rest = self.rest();
            let Some(next) = rest.chars().next() else {
                return self.error_at(start, "the string does not end");
            };
            if next == quote {
                self.at += 1;
                if !self.rest().starts_with(quote) {
                    return Ok(string);
                }
            } else if next == '&' {
                string.push(self.reference()?);
                continue;
            }
            string.push(next);
            self.at += next.len_utf8();
        }
    }

    /// The character that a reference stands for.
    fn reference(&mut self) -> Result<char, SyntaxError> {
        let body = self.rest()[1..].split_once(';').map(|(body, _)| body);
        let number = |digits: &str, radix| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
        let character = match body {
            Some("lt") => Some('<'),
            Some("gt") => Some('>'),
            Some("amp") => Some('&'),
            Some("quot") => Some('"'),
            Some("apos") => Some('\''),
            Some(body) => match body.strip_prefix("#x") {
                Some(digits) => number(digits, 16),
                None => body.strip_prefix('#').and_then(|digits| number(digits, 10)),
            },
            None => None,
        };
        match (character, body) {
            (Some(character), Some(body)) => {
                self.at += body.len() + 2;
                Ok(character)
            }
            _ => self.error("an '&' that begins no reference; write '&amp;'"),
        }
    }

    /// The digits of a number: an integer, a decimal number, or one with an exponent.
    pub fn number(&mut self) -> Option<&'t str> {
        let rest = self.rest();
        let digits = |from: usize| rest[from..].bytes().take_while(u8::is_ascii_digit).count();
        let mut end = digits(0);
        let whole = end;
        if rest[end..].starts_with('.') {
            let fraction = digits(end + 1);
            if whole + fraction == 0 {
                return None;
            }
            end += 1 + fraction;
        }
        if end == 0 {
            return None;
        }
        if rest[end..].starts_with(['e', 'E']) {
            let sign = usize::from(rest[end + 1..].starts_with(['+', '-']));
            let exponent = digits(end + 1 + sign);
            if exponent > 0 {
                end += 1 + sign + exponent;
            }
        }
        self.at += end;
        Some(&rest[..end])
    }
}

pub fn is_name_start(character: char) -> bool {
    character == '_' || character.is_alphabetic()
}

fn is_name_character(character: char) -> bool {
    is_name_start(character)
        || character.is_numeric()
        || matches!(character, '-' | '.' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}' | '\u{2040}')
}
