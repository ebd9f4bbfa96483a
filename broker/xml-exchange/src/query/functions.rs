//! The function library.

mod numbers;
mod sequences;
mod texts;

use super::Fault;
use super::evaluate::{Evaluation, Focus};
use super::value::{Atomic, Item, Sequence};

/// A function that queries can call.
#[derive(Debug)]
pub struct Function {
    name: &'static str,
    /// Fewest and most arguments.
    arguments: (usize, usize),
    body: Body,
}

/// What a call has: the query that is being worked out, its arguments, its context.
struct Call<'c, 'q, 'b, 'd> {
    evaluation: &'c mut Evaluation<'q, 'b, 'd>,
    arguments: Vec<Sequence<'d>>,
    focus: Option<&'c Focus<'d>>,
}

type Answer<'d> = Result<Sequence<'d>, Fault>;

#[derive(Clone, Copy, Debug)]
enum Body {
    Plain(for<'d> fn(Call<'_, '_, '_, 'd>) -> Answer<'d>),
    /// Without its last argument it takes the context item.
    OfContext(for<'d> fn(Call<'_, '_, '_, 'd>) -> Answer<'d>),
    /// It takes the context, whatever its arguments.
    Context(for<'d> fn(Call<'_, '_, '_, 'd>) -> Answer<'d>),
}

/// The function of that name that takes so many arguments.
pub fn find(name: &str, arguments: usize) -> Option<&'static Function> {
    let all = [sequences::FUNCTIONS, texts::FUNCTIONS, numbers::FUNCTIONS].into_iter().flatten();
    let mut fitting = all.filter(|known| (known.arguments.0..=known.arguments.1).contains(&arguments));
    fitting.find(|known| known.name == name)
}

impl Function {
    /// Whether a call with so many arguments depends on its context.
    pub fn looks_at_context(&self, arguments: usize) -> bool {
        match self.body {
            Body::Plain(_) => false,
            Body::OfContext(_) => arguments < self.arguments.1,
            Body::Context(_) => true,
        }
    }

    pub fn call<'d>(
        &self,
        evaluation: &mut Evaluation<'_, '_, 'd>,
        mut arguments: Vec<Sequence<'d>>,
        focus: Option<&Focus<'d>>,
    ) -> Answer<'d> {
        let body = match self.body {
            Body::Plain(body) | Body::Context(body) => body,
            Body::OfContext(body) => {
                if arguments.len() < self.arguments.1 {
                    arguments.push(vec![focus.ok_or(Fault::NoBody)?.item.clone()]);
                }
                body
            }
        };
        body(Call { evaluation, arguments, focus })
    }
}

impl<'d> Call<'_, '_, '_, 'd> {
    /// An argument, taken out; one that is not given is empty.
    fn take(&mut self, nth: usize) -> Sequence<'d> {
        self.arguments.get_mut(nth).map(std::mem::take).unwrap_or_default()
    }

    fn has(&self, nth: usize) -> bool {
        nth < self.arguments.len()
    }

    /// An argument as text; of nothing the empty one.
    fn text(&mut self, nth: usize) -> Result<String, Fault> {
        let argument = self.take(nth);
        let text = self.evaluation.text(&argument)?;
        self.evaluation.budget.spend_on_text(&text)?;
        Ok(text)
    }

    /// An argument as a number, if it is there.
    fn number(&mut self, nth: usize) -> Result<Option<Atomic>, Fault> {
        let argument = self.take(nth);
        self.evaluation.optional_number(&argument)
    }

    /// An argument as a number that has to be there.
    fn double(&mut self, nth: usize) -> Result<f64, Fault> {
        super::cast::to_double(&self.number(nth)?.ok_or(Fault::Type)?)
    }

    /// All values of an argument.
    fn atoms(&mut self, nth: usize) -> Result<Vec<Atomic>, Fault> {
        let argument = self.take(nth);
        self.evaluation.atomize(&argument)
    }
}

fn boolean<'d>(value: bool) -> Answer<'d> {
    one(Atomic::Boolean(value))
}

fn string<'d>(text: &str) -> Answer<'d> {
    one(Atomic::text(text))
}

fn one<'d>(value: Atomic) -> Answer<'d> {
    Ok(vec![Item::Atomic(value)])
}

const fn plain(
    name: &'static str,
    arguments: (usize, usize),
    body: for<'d> fn(Call<'_, '_, '_, 'd>) -> Answer<'d>,
) -> Function {
    Function { name, arguments, body: Body::Plain(body) }
}

const fn of_context(
    name: &'static str,
    arguments: (usize, usize),
    body: for<'d> fn(Call<'_, '_, '_, 'd>) -> Answer<'d>,
) -> Function {
    Function { name, arguments, body: Body::OfContext(body) }
}
