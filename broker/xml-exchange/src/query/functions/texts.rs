//! Functions of texts.

use regex_lite::{Regex, RegexBuilder};

use super::{Answer, Call, Fault, Function, boolean, of_context, one, plain, string};
use crate::query::cast::to_text;
use crate::query::value::{Atomic, BYTES_A_STEP, Item};

/// Bytes that a regular expression may take when it is compiled.
const MAX_REGEX_BYTES: usize = 64 * 1024;
/// Steps that compiling one costs.
const REGEX_STEPS: usize = 200;

pub(super) const FUNCTIONS: &[Function] = &[
    of_context("string", (0, 1), |mut call| string(&call.text(0)?)),
    of_context("string-length", (0, 1), |mut call| {
        one(Atomic::Integer(call.text(0)?.chars().count() as i64))
    }),
    of_context("normalize-space", (0, 1), |mut call| {
        string(&call.text(0)?.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
    }),
    plain("concat", (2, usize::MAX), concat),
    plain("string-join", (1, 2), string_join),
    plain("substring", (2, 3), substring),
    plain("substring-before", (2, 2), |mut call| {
        let (text, mark) = (call.text(0)?, call.text(1)?);
        string(text.split_once(&mark).map_or("", |(before, _)| before))
    }),
    plain("substring-after", (2, 2), |mut call| {
        let (text, mark) = (call.text(0)?, call.text(1)?);
        string(text.split_once(&mark).map_or("", |(_, after)| after))
    }),
    plain("contains", (2, 2), |mut call| boolean(call.text(0)?.contains(&call.text(1)?))),
    plain("starts-with", (2, 2), |mut call| boolean(call.text(0)?.starts_with(&call.text(1)?))),
    plain("ends-with", (2, 2), |mut call| boolean(call.text(0)?.ends_with(&call.text(1)?))),
    plain("upper-case", (1, 1), |mut call| string(&call.text(0)?.to_uppercase())),
    plain("lower-case", (1, 1), |mut call| string(&call.text(0)?.to_lowercase())),
    plain("translate", (3, 3), translate),
    plain("compare", (2, 2), compare),
    plain("codepoint-equal", (2, 2), |mut call| boolean(call.text(0)? == call.text(1)?)),
    plain("string-to-codepoints", (1, 1), |mut call| {
        let text = call.text(0)?;
        call.evaluation.budget.spend(text.len())?;
        Ok(text.chars().map(|character| Item::Atomic(Atomic::Integer(u32::from(character).into()))).collect())
    }),
    plain("codepoints-to-string", (1, 1), codepoints_to_string),
    plain("matches", (2, 3), |mut call| {
        let text = call.text(0)?;
        boolean(regex(&mut call, 2)?.is_match(&text))
    }),
    plain("replace", (3, 4), replace),
    plain("tokenize", (1, 3), tokenize),
];

fn concat<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    let mut text = String::new();
    for nth in 0..call.arguments.len() {
        text.push_str(&call.text(nth)?);
    }
    string(&text)
}

fn string_join<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    let separator = call.text(1)?;
    let mut joined = String::new();
    for (place, value) in call.atoms(0)?.iter().enumerate() {
        if place > 0 {
            joined.push_str(&separator);
        }
        // Many may share one text, and each is copied.
        call.evaluation.budget.spend_on_text(&separator)?;
        call.evaluation.budget.spend(value.text_steps())?;
        joined.push_str(&to_text(value));
    }
    string(&joined)
}

fn substring<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    let text = call.text(0)?;
    let first = call.double(1)?.round();
    let end = if call.has(2) { first + call.double(2)?.round() } else { f64::INFINITY };
    let inside = |place: usize| (place + 1) as f64 >= first && ((place + 1) as f64) < end;
    let part: String = text
        .chars()
        .enumerate()
        .filter(|(place, _)| inside(*place))
        .map(|(_, character)| character)
        .collect();
    string(&part)
}

fn translate<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    let (text, from, to) = (call.text(0)?, call.text(1)?, call.text(2)?);
    call.evaluation.budget.spend(text.len().saturating_mul(from.len()))?;
    let to: Vec<char> = to.chars().collect();
    let translated =
        text.chars().filter_map(|character| match from.chars().position(|known| known == character) {
            Some(place) => to.get(place).copied(),
            None => Some(character),
        });
    string(&translated.collect::<String>())
}

fn compare<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    if call.arguments.iter().any(Vec::is_empty) {
        return Ok(Vec::new());
    }
    let order = call.text(0)?.cmp(&call.text(1)?);
    one(Atomic::Integer(order as i64))
}

fn codepoints_to_string<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    let character = |value: Atomic| match value {
        Atomic::Integer(number) => u32::try_from(number).ok().and_then(char::from_u32).ok_or(Fault::Type),
        _ => Err(Fault::Type),
    };
    let text: String = call.atoms(0)?.into_iter().map(character).collect::<Result<_, Fault>>()?;
    string(&text)
}

fn replace<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    let text = call.text(0)?;
    // `$1` is followed by what is no part of its name.
    let by = dollars(&call.text(2)?);
    let regex = regex(&mut call, 3)?;
    // As if there were a match at every byte.
    let most = (text.len() + 1).saturating_mul(by.len() + 1);
    call.evaluation.budget.spend(most / BYTES_A_STEP)?;
    string(&regex.replace_all(&text, by.as_str()))
}

fn tokenize<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    let text = call.text(0)?;
    call.evaluation.budget.spend(text.len())?;
    if !call.has(1) {
        return Ok(text.split_ascii_whitespace().map(|token| Item::Atomic(Atomic::text(token))).collect());
    }
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let regex = regex(&mut call, 2)?;
    Ok(regex.split(&text).map(|token| Item::Atomic(Atomic::text(token))).collect())
}

/// The regular expression of the second argument, with the flags of a later one.
fn regex(call: &mut Call<'_, '_, '_, '_>, flags: usize) -> Result<Regex, Fault> {
    let (pattern, flags) = (call.text(1)?, call.text(flags)?);
    call.evaluation.budget.spend(REGEX_STEPS + pattern.len())?;
    let is_literal = flags.contains('q');
    let pattern = if is_literal { regex_lite::escape(&pattern) } else { pattern };
    let mut builder = RegexBuilder::new(&pattern);
    builder.size_limit(MAX_REGEX_BYTES);
    for flag in flags.chars() {
        match flag {
            'i' => builder.case_insensitive(true),
            'm' => builder.multi_line(true),
            's' => builder.dot_matches_new_line(true),
            'x' => builder.ignore_whitespace(true),
            'q' => &mut builder,
            _ => return Err(Fault::Type),
        };
    }
    builder.build().map_err(|_| Fault::Type)
}

/// A replacement as the library of regular expressions writes it.
fn dollars(by: &str) -> String {
    let mut written = String::new();
    let mut characters = by.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, characters.peek().copied()) {
            ('$', Some(digit)) if digit.is_ascii_digit() => {
                characters.next();
                written.push_str(&format!("${{{digit}}}"));
            }
            ('\\', Some(escaped @ ('$' | '\\'))) => {
                characters.next();
                written.push_str(if escaped == '$' { "$$" } else { "\\" });
            }
            ('$', _) => written.push_str("$$"),
            (other, _) => written.push(other),
        }
    }
    written
}
