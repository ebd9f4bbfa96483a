//! What a query declares before it begins, and the names that it can use then.

use super::SyntaxError;
use super::ast::{Global, KindTest, NameTest};
use super::parse::Parser;
use super::types::{AtomicType, ItemType, SequenceType};

const SCHEMA: &str = "http://www.w3.org/2001/XMLSchema";
const FUNCTIONS: &str = "http://www.w3.org/2005/xpath-functions";

/// Prefixes that need no declaration.
const PREDECLARED: [(&str, &str); 4] = [
    ("xml", "http://www.w3.org/XML/1998/namespace"),
    ("xs", SCHEMA),
    ("fn", FUNCTIONS),
    ("local", "http://www.w3.org/2005/xquery-local-functions"),
];

/// Declarations that make no difference to what a query answers.
const IDLE: [&str; 6] =
    ["boundary-space", "base-uri", "construction", "ordering", "copy-namespaces", "option"];

/// The namespaces that prefixes stand for.
#[derive(Default)]
pub struct Names {
    declared: Vec<(String, String)>,
    /// Of elements without a prefix.
    default: Option<String>,
}

/// What a name in front of a `(` belongs to.
pub enum Library {
    Functions,
    /// Types, whose names convert.
    Schema,
    Other,
}

impl Names {
    fn of(&self, prefix: &str) -> Option<&str> {
        let declared = self.declared.iter().rev().map(|(known, uri)| (known.as_str(), uri.as_str()));
        declared.chain(PREDECLARED).find(|(known, _)| *known == prefix).map(|(_, uri)| uri)
    }
}

impl Parser<'_> {
    pub(super) fn prolog(&mut self) -> Result<Vec<Global>, SyntaxError> {
        self.version()?;
        let mut globals = Vec::new();
        loop {
            if self.cursor.eat_words(&["declare", "variable"])? {
                globals.push(self.global()?);
            } else if self.cursor.eat_words(&["declare", "namespace"])? {
                self.namespace()?;
            } else if self.cursor.eat_words(&["declare", "default", "element", "namespace"])? {
                self.names.default = Some(self.cursor.string()?).filter(|uri| !uri.is_empty());
            } else if self.cursor.eat_words(&["declare", "default", "function", "namespace"])? {
                let place = self.cursor.place();
                if self.cursor.string()? != FUNCTIONS {
                    return self.cursor.error_at(place, "there are no functions in that namespace");
                }
            } else if self.idle_declaration()? {
                self.skip_to_end_of_declaration()?;
            } else if self.cursor.eat_words(&["declare", "function"])? {
                return self.cursor.error("functions of one's own are not supported");
            } else if self.cursor.eat_words(&["import", "module"])?
                || self.cursor.eat_words(&["import", "schema"])?
            {
                return self.cursor.error("nothing can be imported");
            } else {
                return Ok(globals);
            }
            self.cursor.want(";")?;
        }
    }

    fn version(&mut self) -> Result<(), SyntaxError> {
        if self.cursor.eat_words(&["xquery", "version"])? {
            self.cursor.string()?;
            if self.cursor.eat_word("encoding")? {
                self.cursor.string()?;
            }
            self.cursor.want(";")?;
        }
        Ok(())
    }

    fn idle_declaration(&mut self) -> Result<bool, SyntaxError> {
        for name in IDLE {
            if self.cursor.eat_words(&["declare", name])? {
                return Ok(true);
            }
        }
        Ok(self.cursor.eat_words(&["declare", "default", "order"])?
            || self.cursor.eat_words(&["declare", "default", "collation"])?)
    }

    fn skip_to_end_of_declaration(&mut self) -> Result<(), SyntaxError> {
        while !self.cursor.sees(";")? {
            if self.cursor.sees("\"")? || self.cursor.sees("'")? {
                self.cursor.string()?;
            } else if self.cursor.qname().is_none() && !self.cursor.eat(",")? && !self.cursor.eat("=")? {
                return self.cursor.expected("';'");
            }
        }
        Ok(())
    }

    fn namespace(&mut self) -> Result<(), SyntaxError> {
        self.cursor.skip()?;
        let Some(prefix) = self.cursor.ncname() else { return self.cursor.expected("a prefix") };
        self.cursor.want("=")?;
        let uri = self.cursor.string()?;
        self.names.declared.push((prefix.into(), uri));
        Ok(())
    }

    fn global(&mut self) -> Result<Global, SyntaxError> {
        let name = self.variable_name()?;
        let declared = self.declared_type()?;
        let external = self.cursor.eat_word("external")?;
        let value = match external {
            true if !self.cursor.eat(":=")? => None,
            true => Some(self.expression()?),
            false if self.cursor.eat(":=")? => Some(self.expression()?),
            false => return self.cursor.expected("'external' or ':='"),
        };
        let slot = self.declare(name.clone());
        Ok(Global { slot, name, declared, external, value })
    }

    fn declared_type(&mut self) -> Result<Option<SequenceType>, SyntaxError> {
        if self.cursor.eat_word("as")? { self.sequence_type().map(Some) } else { Ok(None) }
    }

    /// The type of a variable inside an expression; what it holds says enough.
    pub(super) fn skip_type(&mut self) -> Result<(), SyntaxError> {
        self.declared_type().map(drop)
    }

    pub(super) fn sequence_type(&mut self) -> Result<SequenceType, SyntaxError> {
        if self.cursor.sees_word_and("empty-sequence", "(")? {
            self.cursor.want_word("empty-sequence")?;
            self.cursor.want("(")?;
            self.cursor.want(")")?;
            return Ok(SequenceType { item: None, may_be_empty: true, may_be_many: false });
        }
        let item = Some(self.item_type()?);
        let (may_be_empty, may_be_many) = match () {
            () if self.cursor.eat("?")? => (true, false),
            () if self.cursor.eat("*")? => (true, true),
            () if self.cursor.eat("+")? => (false, true),
            () => (false, false),
        };
        Ok(SequenceType { item, may_be_empty, may_be_many })
    }

    fn item_type(&mut self) -> Result<ItemType, SyntaxError> {
        if self.cursor.sees_word_and("item", "(")? {
            self.cursor.want_word("item")?;
            self.cursor.want("(")?;
            self.cursor.want(")")?;
            return Ok(ItemType::Any);
        }
        match self.kind_test()? {
            Some(test) => Ok(ItemType::Node(test)),
            None => self.atomic_type().map(ItemType::Atomic),
        }
    }

    pub(super) fn atomic_type(&mut self) -> Result<AtomicType, SyntaxError> {
        self.cursor.skip()?;
        let place = self.cursor.place();
        let Some((prefix, local)) = self.cursor.qname() else { return self.cursor.expected("a type") };
        let known = match self.library(place, prefix)? {
            Library::Schema => AtomicType::named(local),
            Library::Functions | Library::Other => None,
        };
        match known {
            Some(known) => Ok(known),
            None => self.cursor.error_at(place, format!("there is no type '{local}'")),
        }
    }

    /// What functions or types a prefix stands for.
    pub(super) fn library(&self, place: usize, prefix: Option<&str>) -> Result<Library, SyntaxError> {
        let Some(prefix) = prefix else { return Ok(Library::Functions) };
        match self.names.of(prefix) {
            Some(SCHEMA) => Ok(Library::Schema),
            Some(FUNCTIONS) => Ok(Library::Functions),
            Some(_) => Ok(Library::Other),
            None => self.cursor.error_at(place, format!("the prefix '{prefix}' is not declared")),
        }
    }

    /// A test for a kind of node, if one comes next.
    pub(super) fn kind_test(&mut self) -> Result<Option<KindTest>, SyntaxError> {
        const KINDS: [&str; 7] =
            ["node", "text", "comment", "processing-instruction", "document-node", "element", "attribute"];
        for kind in KINDS {
            if !self.cursor.sees_word_and(kind, "(")? {
                continue;
            }
            self.cursor.want_word(kind)?;
            self.cursor.want("(")?;
            let test = match kind {
                "node" => KindTest::Any,
                "text" => KindTest::Text,
                "comment" => KindTest::Comment,
                "processing-instruction" => KindTest::ProcessingInstruction(self.instruction_target()?),
                "document-node" => KindTest::Document,
                "element" => KindTest::Element(self.optional_name(false)?),
                _ => KindTest::Attribute(self.optional_name(true)?),
            };
            self.cursor.want(")")?;
            return Ok(Some(test));
        }
        Ok(None)
    }

    fn instruction_target(&mut self) -> Result<Option<String>, SyntaxError> {
        if self.cursor.sees("\"")? || self.cursor.sees("'")? {
            return self.cursor.string().map(Some);
        }
        Ok(self.cursor.ncname().map(String::from))
    }

    fn optional_name(&mut self, of_attribute: bool) -> Result<NameTest, SyntaxError> {
        match self.cursor.sees(")")? {
            true => Ok(NameTest { namespace: None, local: None }),
            false => self.name_test(of_attribute),
        }
    }

    /// A name, of which parts may be `*`.
    pub(super) fn name_test(&mut self, of_attribute: bool) -> Result<NameTest, SyntaxError> {
        self.cursor.skip()?;
        let place = self.cursor.place();
        if self.cursor.eat("*")? {
            let local = if self.cursor.rest().starts_with(':') && !self.cursor.rest().starts_with("::") {
                self.cursor.want(":")?;
                match self.cursor.ncname() {
                    Some(local) => Some(local.into()),
                    None => return self.cursor.expected("a name"),
                }
            } else {
                None
            };
            return Ok(NameTest { namespace: None, local });
        }
        match self.cursor.qname() {
            Some((None, prefix)) if self.cursor.rest().starts_with(":*") => {
                self.cursor.want(":*")?;
                Ok(NameTest { namespace: Some(self.uri(place, Some(prefix), of_attribute)?), local: None })
            }
            Some((prefix, local)) => Ok(NameTest {
                namespace: Some(self.uri(place, prefix, of_attribute)?),
                local: Some(local.into()),
            }),
            None => self.cursor.expected("a name"),
        }
    }

    fn uri(
        &self,
        place: usize,
        prefix: Option<&str>,
        of_attribute: bool,
    ) -> Result<Option<String>, SyntaxError> {
        match prefix {
            None if of_attribute => Ok(None),
            None => Ok(self.names.default.clone()),
            Some(prefix) => match self.names.of(prefix) {
                Some(uri) => Ok(Some(uri.into())),
                None => self.cursor.error_at(place, format!("the prefix '{prefix}' is not declared")),
            },
        }
    }
}
