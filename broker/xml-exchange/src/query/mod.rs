//! Queries: XQuery as people write it to select messages.
//!
//! 1. A query is compiled once; what does not parse is refused with its place.
//! 2. Its answer is the effective boolean value of its result. A query that fails, or costs more than its budget, does
//!    not match.
//! 3. Nothing but the body and the variables is looked at: no file, no address, no clock.
//! 4. Neither a query nor a body can make it recurse without bound.
//!
//! The language: FLWOR, `some`/`every`, `if`, comparisons, arithmetic, sequences, paths over all axes with predicates,
//! types, the greater part of the function library, and a prolog that declares variables and namespaces. Not there:
//! constructors, functions and modules of one's own, maps and arrays, dates.

mod ast;
mod axes;
mod cast;
mod compare;
mod cursor;
mod evaluate;
mod functions;
mod parse;
mod paths;
mod prolog;
#[cfg(test)]
mod tests;
mod types;
mod value;

use std::fmt;

use ast::Module;
use evaluate::Evaluation;
pub use value::Atomic;

/// A query, ready to be held against messages.
#[derive(Debug)]
pub struct Query {
    /// `None`: matches everything.
    module: Option<Module>,
}

/// Why a text is not a query, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub reason: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.reason)
    }
}

impl std::error::Error for SyntaxError {}

/// Why a query has no answer for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It cost more steps than it may.
    Exhausted,
    /// It needs the body, and that is not XML.
    NoBody,
    /// A variable that it looks at has no value.
    NoVariable,
    /// A value is not of a type that can be used so; or a number is too large, or divided by zero.
    Type,
}

/// Where a query finds the values of external variables.
pub type Externals<'a> = dyn Fn(&str) -> Option<Atomic> + 'a;

impl Query {
    /// Compiles a query. An empty one matches everything.
    ///
    /// # Errors
    /// It does not parse, or uses what is not there.
    pub fn compile(text: &str) -> Result<Self, SyntaxError> {
        if text.trim().is_empty() {
            return Ok(Query { module: None });
        }
        parse::module(text).map(|module| Query { module: Some(module) })
    }

    /// Whether it looks at the body.
    pub fn uses_body(&self) -> bool {
        self.module.as_ref().is_some_and(|module| module.uses_body)
    }

    /// Whether it matches a message with that body, if that is XML, and those variables. Takes what it costs off
    /// `steps`; where these end, so does the query.
    ///
    /// # Errors
    /// There is no answer.
    pub fn matches(
        &self,
        body: Option<&roxmltree::Document<'_>>,
        externals: &Externals<'_>,
        steps: &mut u32,
    ) -> Result<bool, Fault> {
        let Some(module) = &self.module else { return Ok(true) };
        Evaluation::new(module, steps).run(body, externals)
    }
}
