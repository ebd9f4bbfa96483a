//! Holds the tables against the published specifications. These are not part of the sources; where they do not lie
//! in `shared/specs` beside the checkout the tests say so and pass.

use std::collections::BTreeMap;
use std::path::Path;

use super::{method, properties, reply_code};

/// A method of the table.
pub(super) struct Row {
    pub class: (&'static str, u16),
    pub method: (&'static str, u16),
    pub variant: &'static str,
    /// Name and type of each field; reserved ones have an empty name.
    pub fields: &'static [(&'static str, &'static str)],
}

/// Methods by class and method id: both names, and the fields as `(name, type)`; reserved ones have an empty name.
type Methods = BTreeMap<(u16, u16), (String, String, Vec<(String, String)>)>;

/// What of the specifications' names is reserved: with these names in the JSON, as `reserved-…` in the XML.
const RESERVED: &[&str] =
    &["ticket", "capabilities", "insist", "known-hosts", "out-of-band", "channel-id", "cluster-id"];

fn specification(file: &str) -> Option<String> {
    let beside = |folder: &Path| folder.join("shared/specs").join(file);
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find_map(|folder| std::fs::read_to_string(beside(folder)).ok());
    if found.is_none() {
        println!("skipped: there is no shared/specs/{file} beside the checkout");
    }
    found
}

fn ours() -> Methods {
    let field =
        |&(name, kind): &(&str, &str)| (name.trim_end_matches('_').replace('_', "-"), kind.to_owned());
    let entry = |row: &Row| {
        let fields = row.fields.iter().map(field).collect();
        ((row.class.1, row.method.1), (row.class.0.to_owned(), row.method.0.to_owned(), fields))
    };
    let methods: Methods = method::TABLE.iter().map(entry).collect();
    assert_eq!(methods.len(), method::TABLE.len(), "two rows have the same ids");
    methods
}

/// The XML.
struct Xml<'a> {
    root: roxmltree::Node<'a, 'a>,
    domains: BTreeMap<&'a str, &'a str>,
}

impl<'a> Xml<'a> {
    fn new(document: &'a roxmltree::Document<'a>) -> Self {
        let root = document.root_element();
        let domains = root
            .descendants()
            .filter(|node| node.has_tag_name("domain"))
            .filter_map(|node| Some((node.attribute("name")?, node.attribute("type")?)))
            .collect();
        Xml { root, domains }
    }

    fn fields(&self, parent: roxmltree::Node<'_, '_>) -> Vec<(String, String)> {
        let fields = parent.children().filter(|node| node.has_tag_name("field"));
        fields
            .map(|field| {
                let kind = field.attribute("domain").or(field.attribute("type")).unwrap();
                let kind = self.domains.get(kind).copied().unwrap_or(kind).to_owned();
                let reserved = field.attribute("reserved") == Some("1");
                let name = if reserved { "" } else { field.attribute("name").unwrap() };
                (name.to_owned(), kind)
            })
            .collect()
    }

    fn classes(&self) -> impl Iterator<Item = roxmltree::Node<'a, 'a>> {
        self.root.children().filter(|node| node.has_tag_name("class"))
    }

    fn methods(&self) -> Methods {
        let mut methods = Methods::new();
        for class in self.classes() {
            for method in class.children().filter(|node| node.has_tag_name("method")) {
                let index = |node: roxmltree::Node<'_, '_>| node.attribute("index").unwrap().parse().unwrap();
                let name = |node: roxmltree::Node<'_, '_>| node.attribute("name").unwrap().to_owned();
                let entry = (name(class), name(method), self.fields(method));
                methods.insert((index(class), index(method)), entry);
            }
        }
        methods
    }
}

#[test]
fn methods_are_those_of_the_xml() {
    let Some(text) = specification("amqp0-9-1.stripped.extended.xml") else { return };
    let document = roxmltree::Document::parse_with_options(
        &text,
        roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() },
    )
    .unwrap();
    let mut ours = ours();
    // The class of AMQP 0-8 that old clients still use; only the JSON has it.
    ours.retain(|ids, _| ids.0 != method::class::ACCESS);
    assert_eq!(ours, rename_nowait(Xml::new(&document).methods()));
}

#[test]
fn methods_are_those_of_the_json() {
    let Some(text) = specification("amqp-rabbitmq-0.9.1.json") else { return };
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let domains: BTreeMap<String, String> =
        json["domains"].as_array().unwrap().iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect();
    let mut theirs = Methods::new();
    for class in json["classes"].as_array().unwrap() {
        for method in class["methods"].as_array().unwrap() {
            let fields = method["arguments"].as_array().unwrap().iter().map(|field| {
                let name = text(&field["name"]);
                let reserved = RESERVED.contains(&name.as_str()) && class["name"] != "access";
                let kind = field.get("type").map_or_else(|| domains[&text(&field["domain"])].clone(), text);
                (if reserved { String::new() } else { name }, kind)
            });
            let ids = (class["id"].as_u64().unwrap() as u16, method["id"].as_u64().unwrap() as u16);
            theirs.insert(ids, (text(&class["name"]), text(&method["name"]), fields.collect()));
        }
    }
    assert_eq!(ours(), rename_nowait(theirs));
}

/// The specifications spell `no-wait` in two ways; the table in one.
fn rename_nowait(mut methods: Methods) -> Methods {
    for (_, _, fields) in methods.values_mut() {
        fields.iter_mut().filter(|(name, _)| name == "nowait").for_each(|(name, _)| *name = "no-wait".into());
    }
    methods
}

#[test]
fn variants_are_named_after_class_and_method() {
    for row in method::TABLE {
        let camel = |name: &str| -> String {
            name.split('-').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
        };
        assert_eq!(row.variant, camel(row.class.0) + &camel(row.method.0));
    }
}

#[test]
fn properties_and_reply_codes_are_those_of_the_xml() {
    let Some(text) = specification("amqp0-9-1.stripped.extended.xml") else { return };
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(&text, options).unwrap();
    let xml = Xml::new(&document);

    let basic = xml.classes().find(|class| class.attribute("name") == Some("basic")).unwrap();
    let theirs = xml.fields(basic);
    assert_eq!(theirs.len(), properties::TABLE.len());
    for ((their_name, their_type), &(name, kind)) in theirs.iter().zip(properties::TABLE) {
        assert_eq!(if their_name == "reserved" { "cluster-id" } else { their_name }, name);
        assert_eq!(if their_type == "timestamp" { "longlong" } else { their_type }, kind);
    }

    let constants = xml.root.children().filter(|node| node.has_tag_name("constant"));
    let mut theirs: Vec<_> = constants
        .map(|node| {
            let value: u16 = node.attribute("value").unwrap().parse().unwrap();
            (node.attribute("name").unwrap(), value, node.attribute("class") == Some("hard-error"))
        })
        .filter(|(name, ..)| !name.starts_with("frame-") || *name == "frame-error")
        .collect();
    theirs.sort_by_key(|&(_, value, _)| value);
    assert_eq!(theirs, reply_code::TABLE);
}
