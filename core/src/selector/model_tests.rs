//! Random expressions mean what a plain reading of the language says, however they are written; and no text whatever
//! makes the parser panic.

use super::tests::view;
use super::*;
use proptest::prelude::*;

/// An expression as a tree of the language's own words.
#[derive(Clone, Debug)]
enum Tree {
    Exact(i32),
    Inexact(i32),
    Text(String),
    Bool(bool),
    Name(char),
    Unary(&'static str, Box<Tree>),
    Binary(&'static str, Box<Tree>, Box<Tree>),
    Like(Box<Tree>, String, bool),
    Between(Box<[Tree; 3]>, bool),
    In(Box<Tree>, Vec<Tree>, bool),
}

/// A value of the model; `None` where it is not known.
#[derive(Clone, Debug, PartialEq)]
enum Known {
    Bool(bool),
    Number(f64),
    Text(String),
}

/// Headers of the message that all expressions look at.
const LINES: &str = "a=i2\nb=f0.5\nc=sxyx\nd=btrue";

fn name(name: char) -> Option<Known> {
    Some(match name {
        'a' => Known::Number(2.0),
        'b' => Known::Number(0.5),
        'c' => Known::Text("xyx".into()),
        'd' => Known::Bool(true),
        _ => return None,
    })
}

impl Tree {
    /// As text; everything in parentheses that could be misread.
    fn write(&self, upper: bool) -> String {
        let word = |word: &str| if upper { word.to_uppercase() } else { word.to_lowercase() };
        let write = |tree: &Tree| tree.write(!upper);
        let not = |negated: bool| if negated { word(" not") } else { String::new() };
        match self {
            Tree::Exact(value) => value.to_string(),
            Tree::Inexact(halves) => format!("{:.1}", f64::from(*halves) / 2.0),
            Tree::Text(text) => format!("'{text}'"),
            Tree::Bool(value) => word(&value.to_string()),
            Tree::Name(name) => name.to_string(),
            Tree::Unary(of, operand) if of.starts_with("is") => format!("({} {})", write(operand), word(of)),
            Tree::Unary(of, operand) => format!("({} {})", word(of), write(operand)),
            Tree::Binary(of, left, right) => format!("({} {} {})", write(left), word(of), write(right)),
            Tree::Like(text, pattern, negated) => {
                format!("({}{} {} '{pattern}')", write(text), not(*negated), word("like"))
            }
            Tree::Between(operands, negated) => {
                let [value, least, greatest] = operands.each_ref().map(write);
                format!("({value}{} {} {least} {} {greatest})", not(*negated), word("between"), word("and"))
            }
            Tree::In(value, list, negated) => {
                let list: Vec<_> = list.iter().map(write).collect();
                format!("({}{} {} ({}))", write(value), not(*negated), word("in"), list.join(","))
            }
        }
    }

    /// What it comes to.
    fn value(&self) -> Option<Known> {
        match self {
            Tree::Exact(value) => Some(Known::Number((*value).into())),
            Tree::Inexact(halves) => Some(Known::Number(f64::from(*halves) / 2.0)),
            Tree::Text(text) => Some(Known::Text(text.clone())),
            Tree::Bool(value) => Some(Known::Bool(*value)),
            Tree::Name(letter) => name(*letter),
            Tree::Unary("-", operand) => match operand.value()? {
                Known::Number(value) => Some(Known::Number(-value)),
                _ => None,
            },
            Tree::Binary("+" | "-" | "*", left, right) => self.calculated(left.value()?, right.value()?),
            _ => self.truth().map(Known::Bool),
        }
    }

    fn calculated(&self, left: Known, right: Known) -> Option<Known> {
        let (Known::Number(left), Known::Number(right)) = (left, right) else { return None };
        Some(Known::Number(match self {
            Tree::Binary("+", ..) => left + right,
            Tree::Binary("-", ..) => left - right,
            _ => left * right,
        }))
    }

    fn truth(&self) -> Option<bool> {
        match self {
            Tree::Unary("not", operand) => operand.truth().map(|truth| !truth),
            Tree::Unary("is null", operand) => Some(operand.value().is_none()),
            Tree::Unary("is not null", operand) => Some(operand.value().is_some()),
            Tree::Binary("and", left, right) => match (left.truth(), right.truth()) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Tree::Binary("or", left, right) => match (left.truth(), right.truth()) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            Tree::Binary(of @ ("=" | "<>" | "<" | ">="), left, right) => {
                Some(compare(of, &left.value()?, &right.value()?))
            }
            Tree::Like(text, pattern, negated) => match text.value()? {
                Known::Text(text) => Some(like(text.as_bytes(), pattern.as_bytes()) != *negated),
                _ => None,
            },
            Tree::Between(operands, negated) => {
                let [value, least, greatest] = operands.each_ref().map(Tree::value);
                let (value, least, greatest) = (value?, least?, greatest?);
                let holds = compare(">=", &value, &least) && compare(">=", &greatest, &value);
                Some(holds != *negated)
            }
            Tree::In(value, list, false) => {
                let value = value.value()?;
                let found = list.iter().map(|element| Some(compare("=", &value, &element.value()?)));
                let found: Vec<_> = found.collect();
                if found.contains(&Some(true)) {
                    Some(true)
                } else {
                    found.iter().all(Option::is_some).then_some(false)
                }
            }
            Tree::In(value, list, true) => is_not_in(&value.value()?, list),
            _ => match self.value()? {
                Known::Bool(truth) => Some(truth),
                _ => None,
            },
        }
    }
}

/// False if it is there; otherwise unknown if some element is; otherwise false if some element is of another type.
fn is_not_in(value: &Known, list: &[Tree]) -> Option<bool> {
    let elements: Vec<_> = list.iter().map(Tree::value).collect();
    if elements.iter().flatten().any(|element| compare("=", value, element)) {
        return Some(false);
    }
    let elements: Option<Vec<_>> = elements.into_iter().collect();
    Some(elements?.iter().all(|element| std::mem::discriminant(element) == std::mem::discriminant(value)))
}

fn compare(of: &str, left: &Known, right: &Known) -> bool {
    match (left, right) {
        (Known::Number(left), Known::Number(right)) => match of {
            "=" => left == right,
            "<>" => left != right,
            "<" => left < right,
            _ => left >= right,
        },
        (Known::Text(_), Known::Text(_)) | (Known::Bool(_), Known::Bool(_)) => match of {
            "=" => left == right,
            "<>" => left != right,
            _ => false,
        },
        _ => false,
    }
}

fn like(text: &[u8], pattern: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'%', rest)) => (0..=text.len()).any(|taken| like(&text[taken..], rest)),
        Some((first, rest)) => text
            .split_first()
            .is_some_and(|(byte, text)| (*first == b'_' || first == byte) && like(text, rest)),
    }
}

fn any_tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        (-3..4).prop_map(Tree::Exact),
        (-3..4).prop_map(Tree::Inexact),
        "[xy]{0,3}".prop_map(Tree::Text),
        any::<bool>().prop_map(Tree::Bool),
        prop::char::range('a', 'f').prop_map(Tree::Name),
    ];
    leaf.prop_recursive(5, 40, 3, |inner| {
        let boxed = || inner.clone().prop_map(Box::new);
        let unary = prop::sample::select(vec!["not", "is null", "is not null", "-"]);
        let binary = vec!["and", "or", "=", "<>", "<", ">=", "+", "-", "*"];
        prop_oneof![
            1 => (unary, boxed()).prop_map(|(of, operand)| Tree::Unary(of, operand)),
            4 => (prop::sample::select(binary), boxed(), boxed())
                .prop_map(|(of, left, right)| Tree::Binary(of, left, right)),
            1 => (boxed(), "[xy%_]{0,4}", any::<bool>())
                .prop_map(|(text, pattern, negated)| Tree::Like(text, pattern, negated)),
            1 => ([inner.clone(), inner.clone(), inner.clone()], any::<bool>())
                .prop_map(|(operands, negated)| Tree::Between(Box::new(operands), negated)),
            1 => (boxed(), prop::collection::vec(inner.clone(), 1..4), any::<bool>())
                .prop_map(|(value, list, negated)| Tree::In(value, list, negated)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn expressions_mean_what_the_language_says(tree in any_tree(), upper in any::<bool>()) {
        let text = tree.write(upper);
        let selector = Selector::parse(&text).map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        let (message, standing) = (view("", "", LINES), Standing::default());
        let truth = selector.expression.truth(&Subject { message: &message, standing: &standing });
        prop_assert_eq!(truth, tree.truth(), "{}", text);
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,60}") {
        let _ = Selector::parse(&text).map(|selector| selector.matches(&view("", "", LINES)));
    }

    #[test]
    fn no_row_of_words_makes_it_panic(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "a", "'x'", "1", "0x1p3", "2.5", "(", ")", ",", "+", "-", "*", "/", "=", "<>", "<", ">=", "and",
                "between", "escape", "false", "in", "is", "like", "not", "null", "or", "true", "\"q\"", "JMSType",
            ]),
            0..20,
        ),
    ) {
        let text = words.join(" ");
        match Selector::parse(&text) {
            Ok(selector) => drop(selector.matches(&view("", "", LINES))),
            Err(error) => prop_assert!(error.position <= text.len(), "{}: {:?}", text, error),
        }
    }
}
