//! Working a query out for one message.

use std::cmp::Ordering;
use std::sync::Arc;

use super::ast::{Clause, Expr, Global, Module, Operator, OrderKey, Step};
use super::cast::{cast, to_double, to_text, whole};
use super::types::AtomicType;
use super::value::{Atomic, Budget, Item, Node, Sequence, effective_boolean};
use super::{Externals, Fault, axes, compare};

/// One query and one message.
pub struct Evaluation<'q, 'b, 'd> {
    module: &'q Module,
    pub budget: Budget<'b>,
    /// By slot; those without value are not looked at, or are an error.
    variables: Vec<Option<Sequence<'d>>>,
}

/// What a part of a query is worked out for.
#[derive(Clone)]
pub struct Focus<'d> {
    pub item: Item<'d>,
    pub position: usize,
    pub size: usize,
}

type Outcome<'d> = Result<Sequence<'d>, Fault>;

impl<'q, 'b, 'd> Evaluation<'q, 'b, 'd> {
    pub fn new(module: &'q Module, steps: &'b mut u32) -> Self {
        let variables = std::iter::repeat_with(|| None).take(module.slots as usize).collect();
        Evaluation { module, budget: Budget(steps), variables }
    }

    pub fn run(
        mut self,
        body: Option<&'d roxmltree::Document<'d>>,
        externals: &Externals<'_>,
    ) -> Result<bool, Fault> {
        let focus = body.map(|body| Focus { item: Item::Node(body.root().into()), position: 1, size: 1 });
        let focus = focus.as_ref();
        for global in &self.module.globals {
            self.variables[global.slot as usize] = self.global(global, focus, externals)?;
        }
        let result = self.eval(&self.module.body, focus)?;
        effective_boolean(&result)
    }

    fn global(
        &mut self,
        global: &Global,
        focus: Option<&Focus<'d>>,
        externals: &Externals<'_>,
    ) -> Result<Option<Sequence<'d>>, Fault> {
        let given = if global.external { externals(&global.name) } else { None };
        let value = match (given, &global.value) {
            (Some(given), _) => vec![Item::Atomic(given)],
            (None, Some(value)) => self.eval(value, focus)?,
            (None, None) => return Ok(None),
        };
        match &global.declared {
            Some(declared) if !declared.has(&value) => Err(Fault::Type),
            _ => Ok(Some(value)),
        }
    }

    pub fn eval(&mut self, expr: &Expr, focus: Option<&Focus<'d>>) -> Outcome<'d> {
        self.budget.spend(1)?;
        match expr {
            Expr::Literal(value) => Ok(vec![Item::Atomic(value.clone())]),
            Expr::Variable(slot) => self.variable(*slot),
            Expr::Context => focus.map(|focus| vec![focus.item.clone()]).ok_or(Fault::NoBody),
            Expr::Root => {
                let root = self.context_node(focus)?.node.document().root();
                Ok(vec![Item::Node(root.into())])
            }
            Expr::Sequence(parts) => {
                let mut all = Vec::new();
                for part in parts {
                    all.append(&mut self.eval(part, focus)?);
                }
                Ok(all)
            }
            Expr::Or(parts) => self.logic(parts, focus, true),
            Expr::And(parts) => self.logic(parts, focus, false),
            Expr::Step(step) => self.step(step, focus),
            Expr::Path(left, right) => self.path(left, right, focus),
            Expr::Map(left, right) => {
                let left = self.eval(left, focus)?;
                self.for_each(left, right)
            }
            Expr::Filter(of, predicates) => {
                let items = self.eval(of, focus)?;
                self.filter(items, predicates)
            }
            Expr::Call(function, arguments) => {
                let mut values = Vec::with_capacity(arguments.len());
                for argument in arguments {
                    values.push(self.eval(argument, focus)?);
                }
                function.call(self, values, focus)
            }
            Expr::Binary(operator, left, right) => {
                let (left, right) = (self.eval(left, focus)?, self.eval(right, focus)?);
                self.binary(*operator, &left, &right)
            }
            Expr::Negate(of) => self.negate(of, focus),
            Expr::Number(of) => {
                let value = self.eval(of, focus)?;
                let number = self.optional_number(&value)?;
                Ok(number.into_iter().map(Item::Atomic).collect())
            }
            Expr::If(condition, then, otherwise) => {
                let condition = self.eval(condition, focus)?;
                let chosen = if effective_boolean(&condition)? { then } else { otherwise };
                self.eval(chosen, focus)
            }
            Expr::Flwor(clauses, result) => {
                let mut all = Vec::new();
                self.flwor(clauses, result, focus, &mut all)?;
                Ok(all)
            }
            Expr::Quantified { every, bindings, satisfies } => {
                let found = self.quantified(*every, bindings, satisfies, focus)?;
                Ok(vec![Item::Atomic(Atomic::Boolean(found))])
            }
            Expr::InstanceOf(of, declared) => {
                let value = self.eval(of, focus)?;
                Ok(vec![Item::Atomic(Atomic::Boolean(declared.has(&value)))])
            }
            Expr::TreatAs(of, declared) => {
                let value = self.eval(of, focus)?;
                if declared.has(&value) { Ok(value) } else { Err(Fault::Type) }
            }
            Expr::Cast(of, to, optional) => {
                let value = self.eval(of, focus)?;
                self.cast(&value, *to, *optional)
            }
            Expr::Castable(of, to, optional) => {
                let value = self.eval(of, focus)?;
                match self.cast(&value, *to, *optional) {
                    Err(Fault::Exhausted) => Err(Fault::Exhausted),
                    cast => Ok(vec![Item::Atomic(Atomic::Boolean(cast.is_ok()))]),
                }
            }
        }
    }

    fn variable(&mut self, slot: u32) -> Outcome<'d> {
        let value = self.variables[slot as usize].as_ref().ok_or(Fault::NoVariable)?;
        self.budget.spend(value.len())?;
        Ok(value.clone())
    }

    /// The node that a path starts from.
    pub fn context_node(&self, focus: Option<&Focus<'d>>) -> Result<Node<'d>, Fault> {
        match focus.ok_or(Fault::NoBody)?.item {
            Item::Node(node) => Ok(node),
            Item::Atomic(_) => Err(Fault::Type),
        }
    }

    /// Whether any part is true, or all are, as far as one has to look.
    fn logic(&mut self, parts: &[Expr], focus: Option<&Focus<'d>>, any: bool) -> Outcome<'d> {
        for part in parts {
            let value = self.eval(part, focus)?;
            if effective_boolean(&value)? == any {
                return Ok(vec![Item::Atomic(Atomic::Boolean(any))]);
            }
        }
        Ok(vec![Item::Atomic(Atomic::Boolean(!any))])
    }

    fn step(&mut self, step: &Step, focus: Option<&Focus<'d>>) -> Outcome<'d> {
        let from = self.context_node(focus)?;
        let nodes = axes::walk(from, step.axis, &step.test, &mut self.budget)?;
        let items = nodes.into_iter().map(Item::Node).collect();
        let mut found = self.filter(items, &step.predicates)?;
        if step.axis.is_reverse() {
            found.reverse();
        }
        Ok(found)
    }

    fn path(&mut self, left: &Expr, right: &Expr, focus: Option<&Focus<'d>>) -> Outcome<'d> {
        let left = self.eval(left, focus)?;
        if left.iter().any(|item| matches!(item, Item::Atomic(_))) {
            return Err(Fault::Type);
        }
        let is_ordered = left.len() <= 1;
        let found = self.for_each(left, right)?;
        let nodes = found.iter().filter(|item| matches!(item, Item::Node(_))).count();
        match nodes {
            0 => Ok(found),
            _ if nodes < found.len() => Err(Fault::Type),
            _ if is_ordered => Ok(found),
            _ => self.in_order(found),
        }
    }

    /// Nodes in document order, each once.
    fn in_order(&mut self, mut items: Sequence<'d>) -> Outcome<'d> {
        self.budget.spend(items.len())?;
        items.sort_by_key(order_of);
        items.dedup_by_key(|item| order_of(item));
        Ok(items)
    }

    /// What comes of each item as context.
    fn for_each(&mut self, items: Sequence<'d>, expr: &Expr) -> Outcome<'d> {
        let size = items.len();
        let mut all = Vec::new();
        for (place, item) in items.into_iter().enumerate() {
            let focus = Focus { item, position: place + 1, size };
            all.append(&mut self.eval(expr, Some(&focus))?);
        }
        Ok(all)
    }

    fn filter(&mut self, mut items: Sequence<'d>, predicates: &[Expr]) -> Outcome<'d> {
        for predicate in predicates {
            let size = items.len();
            let mut kept = Vec::new();
            for (place, item) in items.into_iter().enumerate() {
                let focus = Focus { item, position: place + 1, size };
                if self.holds(predicate, &focus)? {
                    kept.push(focus.item);
                }
            }
            items = kept;
        }
        Ok(items)
    }

    /// A number says which item, everything else whether.
    fn holds(&mut self, predicate: &Expr, focus: &Focus<'d>) -> Result<bool, Fault> {
        let value = self.eval(predicate, Some(focus))?;
        match &value[..] {
            [Item::Atomic(number)] if number.is_number() => Ok(to_double(number)? == focus.position as f64),
            _ => effective_boolean(&value),
        }
    }

    fn quantified(
        &mut self,
        every: bool,
        bindings: &[(u32, Expr)],
        satisfies: &Expr,
        focus: Option<&Focus<'d>>,
    ) -> Result<bool, Fault> {
        let Some(((slot, items), inner)) = bindings.split_first() else {
            let value = self.eval(satisfies, focus)?;
            return effective_boolean(&value);
        };
        for item in self.eval(items, focus)? {
            self.variables[*slot as usize] = Some(vec![item]);
            if self.quantified(every, inner, satisfies, focus)? != every {
                return Ok(!every);
            }
        }
        Ok(every)
    }

    fn flwor(
        &mut self,
        clauses: &[Clause],
        result: &Expr,
        focus: Option<&Focus<'d>>,
        all: &mut Sequence<'d>,
    ) -> Result<(), Fault> {
        let ordering = clauses.iter().enumerate().find_map(|(at, clause)| match clause {
            Clause::OrderBy(keys) => Some((at, keys)),
            _ => None,
        });
        let Some((at, keys)) = ordering else {
            return self.each_tuple(clauses, focus, &mut |evaluation| {
                all.append(&mut evaluation.eval(result, focus)?);
                Ok(())
            });
        };
        let mut tuples = Vec::new();
        self.each_tuple(&clauses[..at], focus, &mut |evaluation| {
            let values = evaluation.order_values(keys, focus)?;
            evaluation.budget.spend(evaluation.variables.iter().flatten().map(Vec::len).sum())?;
            tuples.push((values, evaluation.variables.clone()));
            Ok(())
        })?;
        tuples.sort_by(|(left, _), (right, _)| order_tuples(keys, left, right));
        for (_, variables) in tuples {
            self.variables = variables;
            self.flwor(&clauses[at + 1..], result, focus, all)?;
        }
        Ok(())
    }

    /// Does something for each way in which the variables can be bound.
    fn each_tuple(
        &mut self,
        clauses: &[Clause],
        focus: Option<&Focus<'d>>,
        then: &mut dyn FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let Some((clause, inner)) = clauses.split_first() else { return then(self) };
        match clause {
            Clause::For { slot, position, items } => {
                for (place, item) in self.eval(items, focus)?.into_iter().enumerate() {
                    self.variables[*slot as usize] = Some(vec![item]);
                    if let Some(position) = position {
                        let place = Atomic::Integer(place as i64 + 1);
                        self.variables[*position as usize] = Some(vec![Item::Atomic(place)]);
                    }
                    self.each_tuple(inner, focus, then)?;
                }
                Ok(())
            }
            Clause::Let { slot, value } => {
                self.variables[*slot as usize] = Some(self.eval(value, focus)?);
                self.each_tuple(inner, focus, then)
            }
            Clause::Where(condition) => {
                let condition = self.eval(condition, focus)?;
                if effective_boolean(&condition)? { self.each_tuple(inner, focus, then) } else { Ok(()) }
            }
            Clause::OrderBy(_) => unreachable!("clauses are split where they are ordered"),
        }
    }

    fn order_values(
        &mut self,
        keys: &[OrderKey],
        focus: Option<&Focus<'d>>,
    ) -> Result<Vec<OrderValue>, Fault> {
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            let value = self.eval(&key.key, focus)?;
            values.push(OrderValue::of(self.optional_atomic(&value)?)?);
        }
        Ok(values)
    }

    fn binary(&mut self, operator: Operator, left: &[Item<'d>], right: &[Item<'d>]) -> Outcome<'d> {
        let boolean = |value| Ok(vec![Item::Atomic(Atomic::Boolean(value))]);
        match operator {
            Operator::General(comparison) => {
                let left = self.atomize(left)?;
                let right = self.atomize(right)?;
                for left in &left {
                    self.budget.spend(right.len().saturating_mul(1 + left.text_steps()))?;
                    for right in &right {
                        if compare::general(comparison, left, right)? {
                            return boolean(true);
                        }
                    }
                }
                boolean(false)
            }
            Operator::Value(comparison) => {
                match (self.optional_atomic(left)?, self.optional_atomic(right)?) {
                    (Some(left), Some(right)) => boolean(compare::value(comparison, &left, &right)?),
                    _ => Ok(Vec::new()),
                }
            }
            Operator::Is | Operator::Precedes | Operator::Follows => {
                let order = match (left, right) {
                    ([Item::Node(left)], [Item::Node(right)]) => left.order().cmp(&right.order()),
                    ([], [] | [Item::Node(_)]) | ([Item::Node(_)], []) => return Ok(Vec::new()),
                    _ => return Err(Fault::Type),
                };
                boolean(match operator {
                    Operator::Is => order.is_eq(),
                    Operator::Precedes => order.is_lt(),
                    _ => order.is_gt(),
                })
            }
            Operator::Concat => {
                let text = [self.text(left)?, self.text(right)?].concat();
                self.budget.spend_on_text(&text)?;
                Ok(vec![Item::Atomic(Atomic::text(&text))])
            }
            Operator::Range => self.range(left, right),
            Operator::Union | Operator::Intersect | Operator::Except => self.combine(operator, left, right),
            _ => match (self.optional_number(left)?, self.optional_number(right)?) {
                (Some(left), Some(right)) => Ok(vec![Item::Atomic(arithmetic(operator, &left, &right)?)]),
                _ => Ok(Vec::new()),
            },
        }
    }

    fn range(&mut self, left: &[Item<'d>], right: &[Item<'d>]) -> Outcome<'d> {
        let (left, right) = (self.optional_integer(left)?, self.optional_integer(right)?);
        let (Some(left), Some(right)) = (left, right) else { return Ok(Vec::new()) };
        if left > right {
            return Ok(Vec::new());
        }
        let length = right.checked_sub(left).and_then(|length| usize::try_from(length).ok());
        self.budget.spend(length.unwrap_or(usize::MAX))?;
        Ok((left..=right).map(|number| Item::Atomic(Atomic::Integer(number))).collect())
    }

    fn combine(&mut self, operator: Operator, left: &[Item<'d>], right: &[Item<'d>]) -> Outcome<'d> {
        if left.iter().chain(right).any(|item| matches!(item, Item::Atomic(_))) {
            return Err(Fault::Type);
        }
        let left = self.in_order(left.to_vec())?;
        let right = self.in_order(right.to_vec())?;
        let is_right = |item: &Item<'d>| right.binary_search_by_key(&order_of(item), order_of).is_ok();
        match operator {
            Operator::Union => self.in_order([left, right].concat()),
            Operator::Intersect => Ok(left.into_iter().filter(is_right).collect()),
            _ => Ok(left.into_iter().filter(|item| !is_right(item)).collect()),
        }
    }

    fn negate(&mut self, of: &Expr, focus: Option<&Focus<'d>>) -> Outcome<'d> {
        let value = self.eval(of, focus)?;
        let negated = match self.optional_number(&value)? {
            None => return Ok(Vec::new()),
            Some(Atomic::Integer(value)) => Atomic::Integer(value.checked_neg().ok_or(Fault::Type)?),
            Some(Atomic::Decimal(value)) => Atomic::Decimal(-value),
            Some(other) => Atomic::Double(-to_double(&other)?),
        };
        Ok(vec![Item::Atomic(negated)])
    }

    fn cast(&mut self, value: &[Item<'d>], to: AtomicType, optional: bool) -> Outcome<'d> {
        match self.optional_atomic(value)? {
            Some(value) => cast(&value, to).map(|cast| vec![Item::Atomic(cast)]),
            None if optional => Ok(Vec::new()),
            None => Err(Fault::Type),
        }
    }

    /// The values of all items.
    pub fn atomize(&mut self, items: &[Item<'d>]) -> Result<Vec<Atomic>, Fault> {
        self.budget.spend(items.len())?;
        items.iter().map(|item| item.atomized(&mut self.budget)).collect()
    }

    /// The one value, if there is one.
    pub fn optional_atomic(&mut self, items: &[Item<'d>]) -> Result<Option<Atomic>, Fault> {
        match items {
            [] => Ok(None),
            [item] => item.atomized(&mut self.budget).map(Some),
            _ => Err(Fault::Type),
        }
    }

    /// The one value as text; of nothing the empty one.
    pub fn text(&mut self, items: &[Item<'d>]) -> Result<String, Fault> {
        let value = self.optional_atomic(items)?;
        Ok(value.map(|value| to_text(&value).to_string()).unwrap_or_default())
    }

    /// The one number, if there is one. What stands in a document is a double.
    pub fn optional_number(&mut self, items: &[Item<'d>]) -> Result<Option<Atomic>, Fault> {
        match self.optional_atomic(items)? {
            Some(value @ Atomic::Untyped(_)) => Ok(Some(Atomic::Double(to_double(&value)?))),
            Some(value) if value.is_number() => Ok(Some(value)),
            Some(_) => Err(Fault::Type),
            None => Ok(None),
        }
    }

    pub fn optional_integer(&mut self, items: &[Item<'d>]) -> Result<Option<i64>, Fault> {
        match self.optional_atomic(items)? {
            Some(value @ (Atomic::Integer(_) | Atomic::Untyped(_))) => {
                match cast(&value, AtomicType::Integer(i64::MIN, i64::MAX))? {
                    Atomic::Integer(number) => Ok(Some(number)),
                    _ => Err(Fault::Type),
                }
            }
            Some(_) => Err(Fault::Type),
            None => Ok(None),
        }
    }
}

/// Where an item stands in the document; values have no place.
fn order_of(item: &Item<'_>) -> (u32, u32) {
    match item {
        Item::Node(node) => node.order(),
        Item::Atomic(_) => (0, 0),
    }
}

/// A value as what it is put in order by. All of them can be compared, whatever they are.
#[derive(Clone, Debug)]
enum OrderValue {
    Nothing,
    Number(f64),
    Text(Arc<str>),
}

impl OrderValue {
    fn of(value: Option<Atomic>) -> Result<Self, Fault> {
        match value {
            None => Ok(OrderValue::Nothing),
            Some(Atomic::String(text) | Atomic::Untyped(text)) => Ok(OrderValue::Text(text)),
            Some(number) => to_double(&number).map(OrderValue::Number),
        }
    }

    fn compare(&self, other: &Self, empty_greatest: bool) -> Ordering {
        match (self, other) {
            (OrderValue::Nothing, OrderValue::Nothing) => Ordering::Equal,
            (OrderValue::Nothing, _) if empty_greatest => Ordering::Greater,
            (OrderValue::Nothing, _) => Ordering::Less,
            (_, OrderValue::Nothing) => other.compare(self, empty_greatest).reverse(),
            (OrderValue::Number(left), OrderValue::Number(right)) => left.total_cmp(right),
            (OrderValue::Text(left), OrderValue::Text(right)) => left.cmp(right),
            (OrderValue::Number(_), OrderValue::Text(_)) => Ordering::Less,
            (OrderValue::Text(_), OrderValue::Number(_)) => Ordering::Greater,
        }
    }
}

fn order_tuples(keys: &[OrderKey], left: &[OrderValue], right: &[OrderValue]) -> Ordering {
    for ((key, left), right) in keys.iter().zip(left).zip(right) {
        let order = left.compare(right, key.empty_greatest);
        let order = if key.descending { order.reverse() } else { order };
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

fn arithmetic(operator: Operator, left: &Atomic, right: &Atomic) -> Result<Atomic, Fault> {
    if let (Atomic::Integer(left), Atomic::Integer(right)) = (left, right) {
        let (left, right) = (*left, *right);
        let integer = match operator {
            Operator::Add => left.checked_add(right),
            Operator::Subtract => left.checked_sub(right),
            Operator::Multiply => left.checked_mul(right),
            Operator::IntegerDivide => left.checked_div(right),
            Operator::Modulo => left.checked_rem(right),
            _ if right == 0 => None,
            _ => return Ok(Atomic::Decimal(left as f64 / right as f64)),
        };
        return integer.map(Atomic::Integer).ok_or(Fault::Type);
    }
    let is_double = matches!(left, Atomic::Double(_)) || matches!(right, Atomic::Double(_));
    let (left, right) = (to_double(left)?, to_double(right)?);
    let number = match operator {
        Operator::Add => left + right,
        Operator::Subtract => left - right,
        Operator::Multiply => left * right,
        Operator::IntegerDivide => return whole((left / right).trunc()).map(Atomic::Integer),
        _ if right == 0.0 && !is_double => return Err(Fault::Type),
        Operator::Modulo => left % right,
        _ => left / right,
    };
    Ok(if is_double { Atomic::Double(number) } else { Atomic::Decimal(number) })
}
