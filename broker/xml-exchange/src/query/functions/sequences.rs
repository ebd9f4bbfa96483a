//! Functions of sequences, nodes and truth.

use super::{Answer, Body, Call, Fault, Function, boolean, of_context, one, plain, string};
use crate::query::ast::Comparison;
use crate::query::compare;
use crate::query::value::{Atomic, Item, effective_boolean};

const MANY: usize = usize::MAX;

pub(super) const FUNCTIONS: &[Function] = &[
    plain("true", (0, 0), |_| boolean(true)),
    plain("false", (0, 0), |_| boolean(false)),
    plain("not", (1, 1), |mut call| boolean(!effective_boolean(&call.take(0))?)),
    plain("boolean", (1, 1), |mut call| boolean(effective_boolean(&call.take(0))?)),
    plain("exists", (1, 1), |mut call| boolean(!call.take(0).is_empty())),
    plain("empty", (1, 1), |mut call| boolean(call.take(0).is_empty())),
    plain("count", (1, 1), |mut call| one(Atomic::Integer(call.take(0).len() as i64))),
    plain("data", (1, 1), |mut call| Ok(call.atoms(0)?.into_iter().map(Item::Atomic).collect())),
    plain("distinct-values", (1, 1), distinct_values),
    plain("index-of", (2, 2), index_of),
    plain("deep-equal", (2, 2), deep_equal),
    plain("reverse", (1, 1), |mut call| Ok(call.take(0).into_iter().rev().collect())),
    plain("unordered", (1, 1), |mut call| Ok(call.take(0))),
    plain("head", (1, 1), |mut call| Ok(call.take(0).into_iter().take(1).collect())),
    plain("tail", (1, 1), |mut call| Ok(call.take(0).into_iter().skip(1).collect())),
    plain("subsequence", (2, 3), subsequence),
    plain("insert-before", (3, 3), insert_before),
    plain("remove", (2, 2), remove),
    plain("zero-or-one", (1, 1), |call| sized(call, 0, 1)),
    plain("one-or-more", (1, 1), |call| sized(call, 1, MANY)),
    plain("exactly-one", (1, 1), |call| sized(call, 1, 1)),
    plain("error", (0, 3), |_| Err(Fault::Type)),
    Function { name: "position", arguments: (0, 0), body: Body::Context(position) },
    Function { name: "last", arguments: (0, 0), body: Body::Context(last) },
    of_context("root", (0, 1), root),
    of_context("name", (0, 1), |call| name(call, Part::Whole)),
    of_context("local-name", (0, 1), |call| name(call, Part::Local)),
    of_context("namespace-uri", (0, 1), |call| name(call, Part::Namespace)),
];

fn position<'d>(call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    one(Atomic::Integer(call.focus.ok_or(Fault::NoBody)?.position as i64))
}

fn last<'d>(call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    one(Atomic::Integer(call.focus.ok_or(Fault::NoBody)?.size as i64))
}

fn root<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    match call.take(0)[..] {
        [] => Ok(Vec::new()),
        [Item::Node(node)] => Ok(vec![Item::Node(node.node.document().root().into())]),
        _ => Err(Fault::Type),
    }
}

enum Part {
    Whole,
    Local,
    Namespace,
}

/// A node's name; of one without name the empty text. Its prefix is not known any more.
fn name<'d>(mut call: Call<'_, '_, '_, 'd>, part: Part) -> Answer<'d> {
    match call.take(0)[..] {
        [] => string(""),
        [Item::Node(node)] => {
            let (namespace, local) = node.name().unwrap_or_default();
            string(match part {
                Part::Whole | Part::Local => local,
                Part::Namespace => namespace.unwrap_or_default(),
            })
        }
        _ => Err(Fault::Type),
    }
}

fn sized<'d>(mut call: Call<'_, '_, '_, 'd>, fewest: usize, most: usize) -> Answer<'d> {
    let items = call.take(0);
    if (fewest..=most).contains(&items.len()) { Ok(items) } else { Err(Fault::Type) }
}

fn same(left: &Atomic, right: &Atomic) -> bool {
    compare::value(Comparison::Equal, left, right).unwrap_or(false)
}

fn distinct_values<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    let mut distinct: Vec<Atomic> = Vec::new();
    for value in call.atoms(0)? {
        call.evaluation.budget.spend(distinct.len().saturating_mul(1 + value.text_steps()))?;
        if !distinct.iter().any(|known| same(known, &value)) {
            distinct.push(value);
        }
    }
    Ok(distinct.into_iter().map(Item::Atomic).collect())
}

fn index_of<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    let values = call.atoms(0)?;
    let wanted = call.take(1);
    let wanted = call.evaluation.optional_atomic(&wanted)?.ok_or(Fault::Type)?;
    let places = values.iter().enumerate().filter(|(_, value)| same(value, &wanted));
    Ok(places.map(|(place, _)| Item::Atomic(Atomic::Integer(place as i64 + 1))).collect())
}

/// Whether values are the same; nodes by what they say, not by how they are built.
fn deep_equal<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    let (left, right) = (call.atoms(0)?, call.atoms(1)?);
    boolean(left.len() == right.len() && left.iter().zip(&right).all(|(left, right)| same(left, right)))
}

fn subsequence<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    let items = call.take(0);
    let first = call.double(1)?.round();
    let end = if call.has(2) { first + call.double(2)?.round() } else { f64::INFINITY };
    let inside = |place: usize| (place + 1) as f64 >= first && ((place + 1) as f64) < end;
    Ok(items.into_iter().enumerate().filter(|(place, _)| inside(*place)).map(|(_, item)| item).collect())
}

fn insert_before<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    let mut items = call.take(0);
    let at = call.take(1);
    let at = call.evaluation.optional_integer(&at)?.ok_or(Fault::Type)?;
    let at = usize::try_from(at.saturating_sub(1)).unwrap_or(0).min(items.len());
    let inserted = call.take(2);
    items.splice(at..at, inserted);
    Ok(items)
}

fn remove<'d>(mut call: Call<'_, '_, '_, 'd>) -> Answer<'d> {
    let mut items = call.take(0);
    let at = call.take(1);
    let at = call.evaluation.optional_integer(&at)?.ok_or(Fault::Type)?;
    if let Ok(at) = usize::try_from(at)
        && (1..=items.len()).contains(&at)
    {
        items.remove(at - 1);
    }
    Ok(items)
}
