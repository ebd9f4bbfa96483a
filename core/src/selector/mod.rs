//! Selectors of subscriptions: the conditional expressions of SQL-92 that JMS took, as Apache Qpid's C++ broker reads
//! them. The book's page on selectors has the grammar.
//!
//! 1. A selector is compiled once. Evaluating it against a message allocates nothing, and uses no more stack than
//!    [`MAX_DEPTH`] accounts for.
//! 2. No text makes [`Selector::parse`] panic, or use memory beyond a multiple of its length.
//! 3. Logic has three values: what is not known neither holds nor fails, and a message of which it is not known whether
//!    it matches does not.

mod evaluate;
mod identifier;
mod like;
mod number;
mod parse;
mod token;
mod value;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use crate::{MessageView, Name, Refusal, Table};
use evaluate::{Expression, Subject};

/// Longest selector, in bytes.
pub const MAX_BYTES: usize = 65_535;

/// How deeply parentheses, `NOT` and signs may lie in each other.
pub const MAX_DEPTH: usize = 100;

/// Longest pattern after `LIKE`, in bytes: its length times that of a text is what a comparison may cost.
pub const MAX_PATTERN_BYTES: usize = 1024;

/// The arguments of a subscription that are a selector: of Apache Qpid's messaging API, and of its JMS clients.
pub const ARGUMENTS: [&str; 2] = ["x-apache-selector", "x-filter-jms-selector"];

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("illegal selector: {reason} at character {}", .position + 1)]
pub struct SelectorError {
    /// Where, in characters from the start.
    pub position: usize,
    /// What is wrong there.
    pub reason: &'static str,
}

/// What a queue knows of a message in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// It has been delivered before.
    pub redelivered: bool,
    /// When it expires, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

/// A compiled selector.
pub struct Selector {
    text: Box<str>,
    expression: Expression,
}

impl Selector {
    /// Compiles a selector. One without any word selects everything.
    ///
    /// # Errors
    /// What is not a selector, or is longer or nested more deeply than the limits of this module.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let in_characters = |error: SelectorError| {
            let before = text.char_indices().take_while(|(at, _)| *at < error.position);
            SelectorError { position: before.count(), ..error }
        };
        Ok(Selector { text: text.into(), expression: parse::parse(text).map_err(in_characters)? })
    }

    /// The selector among the arguments of a subscription, if there is one; an empty one is none.
    ///
    /// # Errors
    /// What is no text, or no selector.
    pub fn of_arguments(arguments: &Table) -> Result<Option<Arc<Selector>>, Refusal> {
        for argument in ARGUMENTS {
            let Some(value) = arguments.get(argument.as_bytes()) else { continue };
            let refuse = |reason| Refusal::InvalidArgument { argument: Name::from(argument), reason };
            let text = value.as_bytes().and_then(|text| str::from_utf8(text).ok());
            let text = text.ok_or_else(|| refuse("not a text".to_owned()))?;
            if !text.trim().is_empty() {
                let selector = Selector::parse(text).map_err(|error| refuse(error.to_string()))?;
                return Ok(Some(Arc::new(selector)));
            }
        }
        Ok(None)
    }

    /// The selector as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it selects a message that was not delivered before and does not expire.
    pub fn matches(&self, message: &MessageView<'_>) -> bool {
        self.matches_with(message, &Standing::default())
    }

    /// Whether it selects a message.
    pub fn matches_with(&self, message: &MessageView<'_>, standing: &Standing) -> bool {
        self.expression.truth(&Subject { message, standing }) == Some(true)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Selector").field(&self.text).finish()
    }
}

/// By the text: whoever wrote the same means the same.
impl PartialEq for Selector {
    fn eq(&self, other: &Selector) -> bool {
        self.text == other.text
    }
}
