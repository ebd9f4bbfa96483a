//! Holds the table against the published specification. That is not part of the sources; where it does not lie in
//! `shared/specs` beside the checkout the tests say so and pass.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::table::{COMMANDS, CONSTANTS, CONTROLS, DOMAINS, STRUCTS, TYPES};

/// A struct, control or command of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// With the name of its class.
    pub name: &'static str,
    /// Name of the Rust type.
    pub variant: &'static str,
    /// Class and code; 0 for a struct without a code.
    pub code: u16,
    /// Octets of the size.
    pub size: u8,
    /// Octets of the packing flags.
    pub pack: u8,
    /// Name of the Rust type of the result; empty if there is none.
    pub result: &'static str,
    /// Name, type, whether required.
    pub fields: &'static [(&'static str, &'static str, bool)],
}

/// A row as the specification has it, with the specification's names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    code: u16,
    size: u8,
    pack: u8,
    result: String,
    fields: Vec<(String, String, bool)>,
}

type Entries = BTreeMap<String, Entry>;

/// What the table leaves out.
const LEFT_OUT: [&str; 2] = ["file", "stream"];

fn specification() -> Option<String> {
    let file = "amqp-0-10.xml";
    let beside = |folder: &Path| folder.join("shared/specs").join(file);
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find_map(|folder| std::fs::read_to_string(beside(folder)).ok());
    if found.is_none() {
        println!("skipped: there is no shared/specs/{file} beside the checkout");
    }
    found
}

fn ours(rows: &[Row]) -> Entries {
    let field = |&(name, kind, required): &(&str, &str, bool)| {
        (name.trim_end_matches('_').replace('_', "-"), kind.to_owned(), required)
    };
    let entry = |row: &Row| {
        let fields = row.fields.iter().map(field).collect();
        let entry =
            Entry { code: row.code, size: row.size, pack: row.pack, result: row.result.to_owned(), fields };
        (row.name.to_owned(), entry)
    };
    let entries: Entries = rows.iter().map(entry).collect();
    assert_eq!(entries.len(), rows.len(), "two rows have the same name");
    entries
}

type Node<'a> = roxmltree::Node<'a, 'a>;

fn children<'a>(node: Node<'a>, tag: &'static str) -> impl Iterator<Item = Node<'a>> {
    node.children().filter(move |node| node.has_tag_name(tag))
}

fn name<'a>(node: Node<'a>) -> &'a str {
    node.attribute("name").unwrap()
}

/// A number, decimal or with `0x`; 0 where the attribute is missing.
fn number(node: Node<'_>, attribute: &str) -> u64 {
    let Some(text) = node.attribute(attribute) else { return 0 };
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
        None => text.parse().unwrap(),
    }
}

/// The XML.
struct Xml<'a> {
    root: Node<'a>,
}

impl<'a> Xml<'a> {
    /// The classes that the table has.
    fn classes(&self) -> impl Iterator<Item = Node<'a>> {
        children(self.root, "class").filter(|class| !LEFT_OUT.contains(&name(*class)))
    }

    /// Domains of the root and of classes, by the name under which the table has them.
    fn domains(&self) -> BTreeMap<String, Node<'a>> {
        let of_root = children(self.root, "domain").map(|node| (name(node).to_owned(), node));
        let of_classes = children(self.root, "class").flat_map(|class| {
            children(class, "domain").map(move |node| (format!("{}.{}", name(class), name(node)), node))
        });
        of_root.chain(of_classes).collect()
    }

    /// Structs, also those that stand within the command whose result they are.
    fn structs(&self) -> BTreeMap<String, (Node<'a>, Node<'a>)> {
        let of_class = |class: Node<'a>| {
            let structs = class.descendants().filter(|node| node.has_tag_name("struct"));
            structs.map(move |node| (format!("{}.{}", name(class), name(node)), (class, node)))
        };
        self.classes().flat_map(of_class).collect()
    }

    /// The table's notation of a field's type.
    fn field_type(&self, class: Node<'a>, kind: &str) -> String {
        if children(self.root, "type").any(|node| name(node) == kind) {
            return kind.replace('-', "_");
        }
        let candidates = [format!("{}.{kind}", name(class)), kind.to_owned()];
        for candidate in &candidates {
            if let Some(domain) = self.domains().get(candidate) {
                return match DOMAINS.iter().find(|row| row.0 == candidate) {
                    Some(row) => format!("[{}]", row.1),
                    None => self.field_type(class, domain.attribute("type").unwrap()),
                };
            }
            if self.structs().contains_key(candidate) {
                return format!("({})", variant_of_struct(candidate));
            }
        }
        panic!("{kind} is neither a type nor a domain nor a struct")
    }

    fn entry(&self, class: Node<'a>, node: Node<'a>) -> Entry {
        let field = |field: Node<'a>| {
            let kind = self.field_type(class, field.attribute("type").unwrap());
            (name(field).to_owned(), kind, field.attribute("required") == Some("true"))
        };
        let result = children(node, "result").next().map(|result| {
            let inner = children(result, "struct").next().map(name);
            let named = inner.or(result.attribute("type")).unwrap();
            variant_of_struct(&format!("{}.{named}", name(class)))
        });
        let is_struct = node.has_tag_name("struct");
        let has_code = node.attribute("code").is_some();
        let code = (number(class, "code") << 8 | number(node, "code")) as u16;
        Entry {
            code: if has_code { code } else { 0 },
            size: number(node, "size") as u8,
            pack: if is_struct { number(node, "pack") as u8 } else { 2 },
            result: result.unwrap_or_default(),
            fields: children(node, "field").map(field).collect(),
        }
    }

    /// Controls or commands.
    fn operations(&self, tag: &'static str) -> Entries {
        let of_class = |class: Node<'a>| {
            children(class, tag)
                .map(move |node| (format!("{}.{}", name(class), name(node)), self.entry(class, node)))
        };
        self.classes().flat_map(of_class).collect()
    }
}

fn variant_of_struct(name: &str) -> String {
    STRUCTS
        .iter()
        .find(|row| row.name == name)
        .map_or_else(|| format!("no {name}"), |row| row.variant.to_owned())
}

/// Runs `check` with the specification, if there is one.
fn with_xml(check: impl FnOnce(Xml<'_>)) {
    let Some(text) = specification() else { return };
    let document = roxmltree::Document::parse(&text).unwrap();
    check(Xml { root: document.root_element() });
}

#[test]
fn types_and_constants_are_those_of_the_xml() {
    with_xml(|xml| {
        let theirs: Vec<_> = children(xml.root, "type")
            .map(|node| {
                let code = node.attribute("code").map(|_| number(node, "code") as u8);
                let kind = if node.attribute("fixed-width").is_some() { "fixed" } else { "variable" };
                let width = number(node, if kind == "fixed" { "fixed-width" } else { "variable-width" });
                (name(node), code, kind, width as usize)
            })
            .collect();
        assert_eq!(theirs.len(), TYPES.len());
        let sorted = |rows: &[(&str, Option<u8>, &str, usize)]| -> BTreeSet<String> {
            rows.iter().map(|row| format!("{row:?}")).collect()
        };
        assert_eq!(sorted(&theirs), sorted(TYPES));
        let constants: Vec<_> =
            children(xml.root, "constant").map(|node| (name(node), number(node, "value"))).collect();
        assert_eq!(constants, CONSTANTS);
        println!("{} types, {} constants", theirs.len(), constants.len());
    });
}

#[test]
fn enumerated_domains_are_those_of_the_xml() {
    with_xml(|xml| {
        let mut theirs = BTreeMap::new();
        for (name_of_domain, node) in xml.domains() {
            if LEFT_OUT.iter().any(|class| name_of_domain.starts_with(&format!("{class}."))) {
                continue;
            }
            let Some(choices) = children(node, "enum").next() else { continue };
            let choices: Vec<_> =
                children(choices, "choice").map(|choice| (name(choice), number(choice, "value"))).collect();
            theirs.insert(name_of_domain, (node.attribute("type").unwrap(), choices));
        }
        let ours: BTreeMap<_, _> = DOMAINS
            .iter()
            .map(|&(name, _, kind, choices)| (name.to_owned(), (kind, choices.to_vec())))
            .collect();
        assert_eq!((ours.len(), theirs.len()), (DOMAINS.len(), DOMAINS.len()));
        assert_eq!(ours, theirs);
        let values: usize = theirs.values().map(|(_, choices)| choices.len()).sum();
        println!("{} enumerated domains, {values} values", theirs.len());
    });
}

#[test]
fn structs_controls_and_commands_are_those_of_the_xml() {
    with_xml(|xml| {
        let structs: Entries =
            xml.structs().into_iter().map(|(name, (class, node))| (name, xml.entry(class, node))).collect();
        let (controls, commands) = (xml.operations("control"), xml.operations("command"));
        assert_eq!(ours(STRUCTS), structs);
        assert_eq!(ours(CONTROLS), controls);
        assert_eq!(ours(COMMANDS), commands);

        let all: Vec<_> = [&structs, &controls, &commands].into_iter().flat_map(BTreeMap::values).collect();
        let fields: usize = all.iter().map(|entry| entry.fields.len()).sum();
        let results = commands.values().filter(|entry| !entry.result.is_empty()).count();
        println!(
            "{} classes, {} controls, {} commands ({results} with a result), {} structs, {fields} fields",
            xml.classes().count(),
            controls.len(),
            commands.len(),
            structs.len(),
        );
        // What is compared is what is there, and not nothing.
        let counts = (xml.classes().count(), controls.len(), commands.len(), structs.len());
        assert_eq!(counts, (8, CONTROLS.len(), COMMANDS.len(), STRUCTS.len()));
    });
}

#[test]
fn only_a_transfer_carries_content() {
    with_xml(|xml| {
        let carry = |class: Node<'_>| {
            let commands = children(class, "command");
            let carriers = commands.filter(|command| children(*command, "segments").next().is_some());
            carriers.map(|command| format!("{}.{}", name(class), name(command))).collect::<Vec<_>>()
        };
        let carriers: Vec<_> = xml.classes().flat_map(carry).collect();
        assert_eq!(carriers, ["message.transfer"]);
        let transfer =
            xml.root.descendants().find(|node| node.attribute("name") == Some("transfer")).unwrap();
        let entries: Vec<_> = transfer
            .descendants()
            .filter(|node| node.has_tag_name("entry"))
            .map(|node| node.attribute("type").unwrap())
            .collect();
        assert_eq!(entries, ["delivery-properties", "fragment-properties", "message-properties"]);
    });
}

#[test]
fn rust_types_are_named_after_what_they_are() {
    let camel = |name: &str| -> String {
        name.split(['-', '.']).map(|word| word[..1].to_uppercase() + &word[1..]).collect()
    };
    for row in CONTROLS.iter().chain(COMMANDS) {
        assert_eq!(row.variant, camel(row.name));
    }
    for (name, variant) in
        STRUCTS.iter().map(|row| (row.name, row.variant)).chain(DOMAINS.iter().map(|row| (row.0, row.1)))
    {
        let bare = name.rsplit('.').next().unwrap();
        assert!(variant == camel(bare) || variant == camel(name), "{name}: {variant}");
    }
}

#[test]
fn packing_flags_have_room_for_all_fields() {
    for row in STRUCTS.iter().chain(CONTROLS).chain(COMMANDS).filter(|row| row.pack > 0) {
        assert!(row.fields.len() <= 8 * usize::from(row.pack), "{}", row.name);
    }
}
