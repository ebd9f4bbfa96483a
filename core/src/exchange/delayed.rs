//! `x-delayed-message`: another type's routes, for messages that the engine may have held back before.

use super::{Binding, Destination, ExchangeType, Scratch, Types};
use crate::request::ExchangeOptions;
use crate::topology::{BindingEntry, Routable};
use crate::{Name, Refusal, Table, Value};

/// Arguments that name the other type.
pub(super) const ARGUMENTS: &[&str] = &["x-delayed-type", "hash-header", "hash-property"];

/// The routes of the other type.
pub(super) struct Delayed {
    routes: Box<dyn ExchangeType>,
}

/// # Errors
/// `x-delayed-type` is missing, unknown, or another delay; or that type does not take the arguments.
pub(super) fn make(arguments: &Table, types: &Types) -> Result<Box<dyn ExchangeType>, Refusal> {
    let invalid =
        |reason: &str| Refusal::InvalidArgument { argument: "x-delayed-type".into(), reason: reason.into() };
    let kind = match arguments.get(b"x-delayed-type") {
        Some(Value::Text(kind)) if kind.as_bytes() == b"x-delayed-message" => {
            return Err(invalid("a delayed exchange cannot delay another one"));
        }
        Some(Value::Text(kind)) => kind.clone(),
        Some(_) | None => return Err(invalid("it has to name an exchange type")),
    };
    let options = ExchangeOptions { kind, arguments: arguments.clone(), ..ExchangeOptions::default() };
    let routes = types.make(&options).map_err(|refusal| match refusal {
        Refusal::UnknownExchangeType(_) => invalid("no such exchange type"),
        refusal => refusal,
    })?;
    Ok(Box::new(Delayed { routes }))
}

impl ExchangeType for Delayed {
    fn check(&self, binding: &BindingEntry) -> Result<(), Refusal> {
        self.routes.check(binding)
    }

    fn bind(&mut self, binding: &Binding<'_>) -> u32 {
        self.routes.bind(binding)
    }

    fn unbind(&mut self, binding: &Binding<'_>, place: u32) {
        self.routes.unbind(binding, place);
    }

    fn route(&self, key: &[u8], message: &Routable<'_>, scratch: &mut Scratch, found: &mut Vec<Destination>) {
        self.routes.route(key, message, scratch, found);
    }

    /// Whether a message is held back depends on its headers, so nobody may skip looking.
    fn is_by_key_alone(&self) -> bool {
        false
    }

    fn matches_keys(&self) -> bool {
        self.routes.matches_keys()
    }

    fn is_delaying(&self) -> bool {
        true
    }

    fn normal_key(&self, key: &Name) -> Name {
        self.routes.normal_key(key)
    }

    fn is_matching_arguments(&self) -> bool {
        self.routes.is_matching_arguments()
    }

    fn is_described(&self, binding: &BindingEntry, arguments: &Table) -> bool {
        self.routes.is_described(binding, arguments)
    }

    fn is_exclusive(&self, binding: &BindingEntry) -> bool {
        self.routes.is_exclusive(binding)
    }

    fn destinations(&self, key: &[u8]) -> Option<&[Destination]> {
        self.routes.destinations(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::tests::{bound, entry, found_by};

    fn delayed(kind: &str) -> Result<Box<dyn ExchangeType>, Refusal> {
        make(&Table(vec![("x-delayed-type".into(), Value::Text(kind.into()))]), &Types::default())
    }

    #[test]
    fn it_routes_as_the_type_it_names() {
        let entry = entry("a.#", &[]);
        for (kind, key, expected) in [("topic", "a.b", true), ("direct", "a.b", false), ("fanout", "x", true)]
        {
            let mut exchange = delayed(kind).unwrap();
            assert!(exchange.is_delaying());
            exchange.bind(&bound(0, 1, &entry));
            assert_eq!(found_by(&*exchange, key) == [1], expected, "{kind}");
        }
        assert!(!delayed("direct").unwrap().is_by_key_alone(), "a remembered route would skip the delay");
        assert!(delayed("x-consistent-hash").unwrap().check(&entry).is_err());
    }

    #[test]
    fn the_type_has_to_be_a_known_one() {
        for bad in
            [make(&Table::default(), &Types::default()), delayed("colourful"), delayed("x-delayed-message")]
        {
            assert!(matches!(bad, Err(Refusal::InvalidArgument { .. })));
        }
    }
}
