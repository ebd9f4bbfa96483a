//! The text of an address: name, subject, and options as a tree that knows where each part stands.
//!
//! Takes what the libraries of Apache Qpid take: names in quotes or bare, words without quotes as values, escapes with
//! a backslash, a comma after the last entry.

/// Deepest nesting of options.
const MAX_DEPTH: usize = 32;

/// What ends a word that stands without quotes.
const RESERVED: &[char] = &['\'', '"', '{', '}', '[', ']', ',', ':', '/', ';'];

/// A mistake, and the character at which it was found, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub at: usize,
    pub reason: String,
}

/// A part of the options.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    pub at: usize,
    pub tree: Tree,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tree {
    Void,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Part>),
    Map(Vec<Entry>),
}

/// An entry of a map.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub at: usize,
    pub name: String,
    pub value: Part,
}

/// Name, subject, options.
pub(super) type Parsed = (String, Option<String>, Vec<Entry>);

/// Takes an address apart.
///
/// # Errors
/// The first mistake.
pub(super) fn parse(text: &str) -> Result<Parsed, Mistake> {
    let mut parser = Parser { chars: text.chars().collect(), next: 0 };
    let name = parser.name(&['/', ';'])?;
    if name.is_empty() {
        return Err(parser.mistake("an address begins with a name"));
    }
    let subject = if parser.takes('/') { Some(parser.name(&[';'])?) } else { None };
    let mut options = Vec::new();
    if parser.takes(';') && parser.peek().is_some() {
        options = parser.map(1)?;
    }
    match parser.peek() {
        None => Ok((name, subject, options)),
        Some(other) => Err(parser.mistake(&format!("{other:?} follows the end of the address"))),
    }
}

struct Parser {
    chars: Vec<char>,
    next: usize,
}

impl Parser {
    fn mistake(&self, reason: &str) -> Mistake {
        Mistake { at: self.next + 1, reason: reason.to_owned() }
    }

    /// The next character that is no white space.
    fn peek(&mut self) -> Option<char> {
        while self.chars.get(self.next).is_some_and(|char| char.is_whitespace()) {
            self.next += 1;
        }
        self.chars.get(self.next).copied()
    }

    fn takes(&mut self, wanted: char) -> bool {
        let takes = self.peek() == Some(wanted);
        self.next += usize::from(takes);
        takes
    }

    /// A name or subject: in quotes, or up to one of `ends`, without the white space around it.
    fn name(&mut self, ends: &[char]) -> Result<String, Mistake> {
        if let Some(quote @ ('"' | '\'')) = self.peek() {
            return self.quoted(quote);
        }
        let mut name = String::new();
        while let Some(&char) = self.chars.get(self.next).filter(|char| !ends.contains(char)) {
            self.next += 1;
            name.push(if char == '\\' { self.escaped()? } else { char });
        }
        Ok(name.trim_end().to_owned())
    }

    fn quoted(&mut self, quote: char) -> Result<String, Mistake> {
        let begin = self.next + 1;
        self.next += 1;
        let mut text = String::new();
        while let Some(&char) = self.chars.get(self.next) {
            self.next += 1;
            match char {
                '\\' => text.push(self.escaped()?),
                _ if char == quote => return Ok(text),
                _ => text.push(char),
            }
        }
        Err(Mistake { at: begin, reason: format!("the {quote} is not closed") })
    }

    /// What follows a backslash.
    fn escaped(&mut self) -> Result<char, Mistake> {
        let Some(&char) = self.chars.get(self.next) else {
            return Err(self.mistake("nothing follows the backslash"));
        };
        self.next += 1;
        let digits = match char {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'x' => 2,
            'u' => 4,
            other => return Ok(other),
        };
        let text: String = self.chars.iter().skip(self.next).take(digits).collect();
        let is_number = text.len() == digits && text.chars().all(|digit| digit.is_ascii_hexdigit());
        let code = is_number.then(|| u32::from_str_radix(&text, 16).ok()).flatten();
        let Some(char) = code.and_then(char::from_u32) else {
            return Err(self.mistake(&format!("{digits} hexadecimal digits of a character follow \\{char}")));
        };
        self.next += digits;
        Ok(char)
    }

    /// `{name: value, …}`.
    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, Mistake> {
        let mut entries: Vec<Entry> = Vec::new();
        if !self.takes('{') {
            return Err(self.mistake("options stand in {}"));
        }
        while !self.takes('}') {
            self.peek();
            let at = self.next + 1;
            let name = match self.peek() {
                Some(quote @ ('"' | '\'')) => self.quoted(quote)?,
                _ => self.word("a name, or }")?,
            };
            if entries.iter().any(|entry| entry.name == name) {
                return Err(Mistake { at, reason: format!("{name} is given twice") });
            }
            if !self.takes(':') {
                return Err(self.mistake(&format!("a : and a value follow {name}")));
            }
            let value = self.value(depth)?;
            entries.push(Entry { at, name, value });
            if !self.takes(',') && self.peek() != Some('}') {
                return Err(self.mistake("a , or } is expected"));
            }
        }
        Ok(entries)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Part>, Mistake> {
        let mut parts = Vec::new();
        self.takes('[');
        while !self.takes(']') {
            parts.push(self.value(depth)?);
            if !self.takes(',') && self.peek() != Some(']') {
                return Err(self.mistake("a , or ] is expected"));
            }
        }
        Ok(parts)
    }

    fn value(&mut self, depth: usize) -> Result<Part, Mistake> {
        self.peek();
        let at = self.next + 1;
        if depth >= MAX_DEPTH {
            return Err(Mistake { at, reason: format!("options are nested more than {MAX_DEPTH} deep") });
        }
        let tree = match self.peek() {
            Some('{') => Tree::Map(self.map(depth + 1)?),
            Some('[') => Tree::List(self.list(depth + 1)?),
            Some(quote @ ('"' | '\'')) => Tree::Text(self.quoted(quote)?),
            _ => simple(&self.word("a value")?),
        };
        Ok(Part { at, tree })
    }

    /// A word without quotes.
    fn word(&mut self, wanted: &str) -> Result<String, Mistake> {
        self.peek();
        let rest = self.chars[self.next..].iter();
        let word: String =
            rest.take_while(|char| !char.is_whitespace() && !RESERVED.contains(char)).collect();
        if word.is_empty() {
            return Err(self.mistake(&format!("{wanted} is expected")));
        }
        self.next += word.chars().count();
        Ok(word)
    }
}

/// A number, a truth value, nothing, or else text.
fn simple(word: &str) -> Tree {
    match word {
        "True" | "true" => return Tree::Bool(true),
        "False" | "false" => return Tree::Bool(false),
        "None" => return Tree::Void,
        _ => {}
    }
    let is_numeric = |char: char| char.is_ascii_digit() || matches!(char, '+' | '-' | '.' | 'e' | 'E');
    if !word.chars().all(is_numeric) || !word.chars().any(|char| char.is_ascii_digit()) {
        return Tree::Text(word.to_owned());
    }
    if let Ok(integer) = word.parse() {
        Tree::Integer(integer)
    } else if let Ok(float) = word.parse() {
        Tree::Float(float)
    } else {
        Tree::Text(word.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Name and subject.
    fn names(text: &str) -> (String, Option<String>) {
        let (name, subject, _) = parse(text).unwrap();
        (name, subject)
    }

    fn mistake(text: &str) -> (usize, String) {
        let Mistake { at, reason } = parse(text).unwrap_err();
        (at, reason)
    }

    #[test]
    fn names_and_subjects() {
        let pair = |name: &str, subject: &str| (name.to_owned(), Some(subject.to_owned()));
        assert_eq!(names("  work  "), ("work".into(), None));
        assert_eq!(names("amq.topic/news.*.#"), pair("amq.topic", "news.*.#"));
        assert_eq!(names("a b / c d ;"), pair("a b", "c d"));
        assert_eq!(names(r#""a/b;c"/'d;e'; {}"#), pair("a/b;c", "d;e"));
        assert_eq!(names(r"a\/b\x2f\u00e9/"), pair("a/b/é", ""));
        assert_eq!(names("q/s/t"), pair("q", "s/t"));
    }

    #[test]
    fn options_are_a_tree() {
        let (_, _, options) =
            parse("q; {create: always, n: -1, f: .5, t: True, v: None, l: [a.b, {'k k': \"x\"},],}").unwrap();
        let value = |name: &str| options.iter().find(|entry| entry.name == name).unwrap().value.clone();
        assert_eq!(value("create"), Part { at: 13, tree: Tree::Text("always".into()) });
        assert_eq!(value("n").tree, Tree::Integer(-1));
        assert_eq!(value("f").tree, Tree::Float(0.5));
        assert_eq!((value("t").tree, value("v").tree), (Tree::Bool(true), Tree::Void));
        let Tree::List(parts) = value("l").tree else { panic!("no list") };
        assert_eq!(parts[0].tree, Tree::Text("a.b".into()));
        let Tree::Map(entries) = &parts[1].tree else { panic!("no map") };
        assert_eq!((entries[0].name.as_str(), &entries[0].value.tree), ("k k", &Tree::Text("x".into())));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (text, at, reason) in [
            ("", 1, "name"),
            ("; {}", 1, "name"),
            ("q; create", 4, "stand in {}"),
            ("q; {create always}", 12, "a : and a value follow create"),
            ("q; {create: }", 13, "a value"),
            ("q; {create: always", 19, "a , or }"),
            ("q; {a: [1 2]}", 11, "a , or ]"),
            ("q; {a: 'x}", 8, "' is not closed"),
            ("q; {a: 1, a: 2}", 11, "a is given twice"),
            ("q; {} x", 7, "'x' follows"),
            (r"a\x4", 4, "2 hexadecimal"),
            (r"a\", 3, "nothing follows"),
        ] {
            let (found, text_found) = mistake(text);
            assert!(found == at && text_found.contains(reason), "{text}: {found} {text_found}");
        }
        let deep = format!("q; {}1{}", "{a: ".repeat(99), "}".repeat(99));
        assert!(mistake(&deep).1.contains("nested"));
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_or_a_mistake_within_it(text in "[a/;{}:,\\[\\]'\" \\\\x1é]{0,40}") {
            if let Err(Mistake { at, .. }) = parse(&text) {
                prop_assert!(at >= 1 && at <= text.chars().count() + 1);
            }
        }
    }
}
