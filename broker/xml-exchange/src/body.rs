//! A message's body as XML, if it is some that can be parsed at a cost in proportion.

use roxmltree::{Document, ParsingOptions};

/// Most bytes of a body that is parsed.
const MAX_BYTES: usize = 1 << 20;
/// Most elements, texts and the like in it.
const MAX_NODES: u32 = 1 << 17;
/// Most attributes of an element; parsing holds each against all others.
const MAX_ATTRIBUTES: usize = 256;
/// Most declarations of namespaces; each is told to everything inside.
const MAX_NAMESPACES: usize = 256;

/// The body as a tree. A document type declaration is not accepted: what it declares can be many times larger than the
/// body.
pub fn parse(body: &[u8]) -> Option<Document<'_>> {
    if body.len() > MAX_BYTES || !is_proportionate(body) {
        return None;
    }
    let text = std::str::from_utf8(body).ok()?;
    let options = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).ok()
}

/// Whether no tag has too many attributes, and not too many namespaces are declared. A `<` stands in no attribute, so what
/// lies between two of them is at most one tag.
fn is_proportionate(body: &[u8]) -> bool {
    let mut namespaces = 0;
    body.split(|&byte| byte == b'<').all(|tag| {
        namespaces += tag.windows(5).filter(|&name| name == b"xmlns").count();
        namespaces <= MAX_NAMESPACES && attributes(tag) <= MAX_ATTRIBUTES
    })
}

/// How often an equals sign stands before a quote.
fn attributes(tag: &[u8]) -> usize {
    let mut after_equals = false;
    let mut found = 0;
    for &byte in tag {
        match byte {
            b'=' => after_equals = true,
            b' ' | b'\t' | b'\r' | b'\n' => {}
            byte => {
                found += usize::from(after_equals && matches!(byte, b'"' | b'\''));
                after_equals = false;
            }
        }
    }
    found
}
