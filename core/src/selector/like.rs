//! Patterns after `LIKE`: `%` stands for any text, `_` for one character.

use super::value::Text;

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Pattern(Box<[Part]>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Byte(u8),
    /// One character, in UTF-8; one byte where there is none.
    Character,
    /// Any number of characters.
    Any,
}

impl Pattern {
    /// After the escape character, any other stands for itself; one at the end for nothing.
    pub fn new(pattern: &[u8], escape: Option<u8>) -> Self {
        let mut parts = Vec::with_capacity(pattern.len());
        let mut escaped = false;
        for &byte in pattern {
            let part = match byte {
                _ if escaped => Part::Byte(byte),
                byte if Some(byte) == escape => {
                    escaped = true;
                    continue;
                }
                b'%' if parts.last() == Some(&Part::Any) => continue,
                b'%' => Part::Any,
                b'_' => Part::Character,
                byte => Part::Byte(byte),
            };
            parts.push(part);
            escaped = false;
        }
        Pattern(parts.into())
    }

    /// Whether it describes all of the text. What followed the last `%` is tried again one character further when it
    /// fails: the earliest place for what comes before is as good as any.
    pub fn matches(&self, text: &Text<'_>) -> bool {
        let (mut part, mut at) = (0, 0);
        let mut again = None;
        loop {
            match self.0.get(part) {
                Some(Part::Any) => {
                    part += 1;
                    again = Some((part, at));
                    continue;
                }
                Some(&Part::Byte(byte)) if text.get(at) == Some(byte) => {
                    (part, at) = (part + 1, at + 1);
                    continue;
                }
                Some(Part::Character) if at < text.len() => {
                    (part, at) = (part + 1, at + character_bytes(text, at));
                    continue;
                }
                None if at == text.len() => return true,
                _ => {}
            }
            match again {
                Some((after_any, from)) if from < text.len() => {
                    (part, at) = (after_any, from + character_bytes(text, from));
                    again = Some((part, at));
                }
                _ => return false,
            }
        }
    }
}

/// Length of the character there, one for a byte that begins none.
fn character_bytes(text: &Text<'_>, at: usize) -> usize {
    let bytes = match text.get(at) {
        Some(0xC2..=0xDF) => 2,
        Some(0xE0..=0xEF) => 3,
        Some(0xF0..=0xF4) => 4,
        _ => 1,
    };
    let is_whole = (1..bytes).all(|next| text.get(at + next).is_some_and(|byte| byte & 0xC0 == 0x80));
    if is_whole { bytes } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(text: &str, pattern: &str, escape: Option<u8>) -> bool {
        Pattern::new(pattern.as_bytes(), escape).matches(&Text::Whole(text.as_bytes()))
    }

    #[test]
    fn patterns_describe_whole_texts() {
        for (text, pattern, expected) in [
            ("", "", true),
            ("", "%", true),
            ("", "_", false),
            ("a", "", false),
            ("abc", "abc", true),
            ("abc", "ab", false),
            ("abc", "a%", true),
            ("abc", "%c", true),
            ("abc", "%b", false),
            ("abc", "a_c", true),
            ("abc", "_%_", true),
            ("abcabd", "%ab_", true),
            ("aXbXc", "%X%X%", true),
            ("aXbXc", "%X%X%X%", false),
            ("grün", "gr_n", true),
            ("ü", "__", false),
            ("ü", "%_%_", false),
            ("a\nb", "a%b", true),
            ("a.b", "a.b", true),
            ("axb", "a.b", false),
        ] {
            assert_eq!(matches(text, pattern, None), expected, "{text:?} LIKE {pattern:?}");
        }
    }

    #[test]
    fn what_is_escaped_stands_for_itself() {
        let z = Some(b'z');
        assert!(matches("a%b", "az%b", z) && !matches("axb", "az%b", z));
        assert!(matches("a_b", "az_b", z) && !matches("axb", "az_b", z));
        assert!(matches("azb", "azzb", z) && matches("axb", "azxb", z) && matches("a", "az", z));
    }

    #[test]
    fn texts_in_pieces_are_matched_like_whole_ones() {
        let uuid = Text::Uuid(crate::message::properties::format_uuid([0xAB; 16]));
        assert!(Pattern::new(b"abab%-____-%ab", None).matches(&uuid));
        assert!(Pattern::new(b"amq._opic/%", None).matches(&Text::Joined(b"amq.topic", b"k")));
        assert!(!Pattern::new(b"amq.topic%k%", None).matches(&Text::Joined(b"amq.topic", b"")));
    }

    /// What a pattern means, without any cleverness.
    fn model(text: &[char], pattern: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('%', rest)) => (0..=text.len()).any(|taken| model(&text[taken..], rest)),
            Some((first, rest)) => match text.split_first() {
                Some((character, text)) => (*first == '_' || first == character) && model(text, rest),
                None => false,
            },
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_meaning(text in "[abü]{0,12}", pattern in "[abü%_]{0,8}") {
            let characters = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(
                matches(&text, &pattern, None),
                model(&characters(&text), &characters(&pattern))
            );
        }
    }
}
