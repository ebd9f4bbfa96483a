//! `topic`: keys are words between dots; in a binding key `*` stands for one word, `#` for any number of them.
//!
//! The binding keys form a trie over words. Matching walks all nodes that the words so far may lead to at once. Only a
//! `#` node can be reached twice, and it stays once reached; each is therefore taken in once per message, and the work
//! is bounded by words times nodes however many `#` there are.

use super::{Binding, Destination, Destinations, ExchangeType, Scratch};
use crate::hash::Map;
use crate::topology::{Marks, Routable};

/// The node of the empty key.
const ROOT: u32 = 0;
/// The number of a word that is in no binding key.
const UNKNOWN: u32 = 0;

/// Binding keys as a trie.
pub(super) struct Topic {
    nodes: slab::Slab<Node>,
    /// Children by parent and word; one table for all nodes.
    children: Map<(u32, u32), u32>,
    words: Words,
}

#[derive(Default)]
struct Node {
    parent: u32,
    step: Step,
    /// The child for `*`.
    star: Option<u32>,
    /// The child for `#`.
    hash: Option<u32>,
    /// Children, of all three kinds.
    degree: u32,
    destinations: Destinations,
}

/// How a node is reached from its parent.
#[derive(Clone, Copy, Default, PartialEq)]
enum Step {
    #[default]
    Root,
    Word(u32),
    Star,
    Hash,
}

/// Words of binding keys by number, so that a routing key's words are hashed once, not once a node.
#[derive(Default)]
struct Words {
    numbers: Map<Box<[u8]>, (u32, u32)>,
    free: Vec<u32>,
}

/// Kept between messages.
#[derive(Default)]
pub(super) struct TopicScratch {
    /// Where the words so far may have led, `#` nodes left out.
    nodes: Vec<u32>,
    next: Vec<u32>,
    /// `#` nodes reached that have children; they are never left.
    hashes: Vec<u32>,
    hashes_seen: Marks,
}

impl Default for Topic {
    fn default() -> Self {
        let mut nodes = slab::Slab::new();
        assert_eq!(nodes.insert(Node::default()), ROOT as usize);
        Topic { nodes, children: Map::default(), words: Words::default() }
    }
}

impl ExchangeType for Topic {
    fn bind(&mut self, binding: &Binding<'_>) {
        let mut node = ROOT;
        for word in words(binding.entry.key.as_bytes()) {
            node = match self.child(node, word) {
                Some(child) => child,
                None => self.grow(node, word),
            };
        }
        self.nodes[node as usize].destinations.insert(binding.destination);
    }

    fn unbind(&mut self, binding: &Binding<'_>) {
        let mut node = ROOT;
        for word in words(binding.entry.key.as_bytes()) {
            node = self.child(node, word).expect("an unbound key was bound");
        }
        self.nodes[node as usize].destinations.remove(binding.destination);
        self.prune(node, binding.entry.key.as_bytes());
    }

    fn route(&self, key: &[u8], _: &Routable<'_>, scratch: &mut Scratch, found: &mut Vec<Destination>) {
        let TopicScratch { nodes, next, hashes, hashes_seen } = &mut scratch.topic;
        nodes.clear();
        hashes.clear();
        hashes_seen.clear();
        let mut reach = |node: u32, nodes: &mut Vec<u32>, hashes: &mut Vec<u32>| {
            nodes.push(node);
            // A `#` stands for no word too, and so may one after it.
            let mut at = node;
            while let Some(hash) = self.nodes[at as usize].hash
                && hashes_seen.insert(hash)
            {
                let state = &self.nodes[hash as usize];
                // Whatever words are left, it matches.
                found.extend_from_slice(state.destinations.as_slice());
                if state.degree > 0 {
                    hashes.push(hash);
                }
                at = hash;
            }
        };
        reach(ROOT, nodes, hashes);
        for word in words(key) {
            let word = self.words.number(word);
            next.clear();
            // Those reached by this word take part from the next one on.
            let reached = hashes.len();
            for at in 0..nodes.len() + reached {
                let node = if at < nodes.len() { nodes[at] } else { hashes[at - nodes.len()] };
                if let Some(star) = self.nodes[node as usize].star {
                    reach(star, next, hashes);
                }
                if word != UNKNOWN
                    && let Some(&child) = self.children.get(&(node, word))
                {
                    reach(child, next, hashes);
                }
            }
            std::mem::swap(nodes, next);
            if nodes.is_empty() && hashes.is_empty() {
                return;
            }
        }
        for &node in nodes.iter() {
            found.extend_from_slice(self.nodes[node as usize].destinations.as_slice());
        }
    }

    fn matches_keys(&self) -> bool {
        true
    }
}

impl Topic {
    fn child(&self, node: u32, word: &[u8]) -> Option<u32> {
        match word {
            b"*" => self.nodes[node as usize].star,
            b"#" => self.nodes[node as usize].hash,
            _ => self.children.get(&(node, self.words.number(word))).copied(),
        }
    }

    fn grow(&mut self, parent: u32, word: &[u8]) -> u32 {
        let step = match word {
            b"*" => Step::Star,
            b"#" => Step::Hash,
            _ => Step::Word(self.words.hold(word)),
        };
        let child = self.nodes.insert(Node { parent, step, ..Node::default() }) as u32;
        let node = &mut self.nodes[parent as usize];
        node.degree += 1;
        match step {
            Step::Root => unreachable!("the root is nobody's child"),
            Step::Star => node.star = Some(child),
            Step::Hash => node.hash = Some(child),
            Step::Word(word) => drop(self.children.insert((parent, word), child)),
        }
        child
    }

    /// Removes what leads only to where nothing is bound any more, from the end of the key backwards.
    fn prune(&mut self, mut at: u32, key: &[u8]) {
        for word in key.rsplit(|&byte| byte == b'.') {
            let node = &self.nodes[at as usize];
            if node.step == Step::Root || node.degree > 0 || !node.destinations.is_empty() {
                return;
            }
            let node = self.nodes.remove(at as usize);
            let parent = &mut self.nodes[node.parent as usize];
            parent.degree -= 1;
            match node.step {
                Step::Root => unreachable!("the root stays"),
                Step::Star => parent.star = None,
                Step::Hash => parent.hash = None,
                Step::Word(number) => {
                    self.children.remove(&(node.parent, number));
                    self.words.let_go(word);
                }
            }
            at = node.parent;
        }
    }
}

impl Words {
    fn number(&self, word: &[u8]) -> u32 {
        self.numbers.get(word).map_or(UNKNOWN, |&(number, _)| number)
    }

    /// The number of a word, for one node more.
    fn hold(&mut self, word: &[u8]) -> u32 {
        if let Some((number, holders)) = self.numbers.get_mut(word) {
            *holders += 1;
            return *number;
        }
        // Every number below the next new one is in use or free.
        let number = self.free.pop().unwrap_or(self.numbers.len() as u32 + 1);
        self.numbers.insert(word.into(), (number, 1));
        number
    }

    fn let_go(&mut self, word: &[u8]) {
        let (number, holders) = self.numbers.get_mut(word).expect("a held word is known");
        *holders -= 1;
        if *holders == 0 {
            self.free.push(*number);
            self.numbers.remove(word);
        }
    }
}

/// The words of a key. The empty key has none; a dot at an end has an empty word beside it.
fn words(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    key.split(|&byte| byte == b'.').take(if key.is_empty() { 0 } else { usize::MAX })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exchange::tests::{bound, found_by};

    fn matches(pattern: &str, key: &str) -> bool {
        let mut topic = Topic::default();
        topic.bind(&bound(0, 7, &entry(pattern)));
        let found = found_by(&topic, key);
        assert!(found.is_empty() || found == [7]);
        !found.is_empty()
    }

    fn entry(key: &str) -> crate::topology::BindingEntry {
        crate::exchange::tests::entry(key, &[])
    }

    /// The definition.
    fn naive(pattern: &[&[u8]], key: &[&[u8]]) -> bool {
        match (pattern, key) {
            ([], []) => true,
            ([b"#", rest @ ..], _) => naive(rest, key) || (!key.is_empty() && naive(pattern, &key[1..])),
            ([b"*", rest @ ..], [_, key @ ..]) => naive(rest, key),
            ([word, rest @ ..], [first, key @ ..]) => word == first && naive(rest, key),
            _ => false,
        }
    }

    #[test]
    fn the_rules_of_words() {
        for (pattern, key) in [
            ("a.*.c.#", "a.b.c"),
            ("#", ""),
            ("#", "a.b"),
            ("#.#", ""),
            ("*", "a"),
            ("*", "*"),
            ("a.#.b", "a.b"),
            ("a.#.b", "a.b.b"),
            ("#.b", "b"),
            ("", ""),
            (".", "."),
            ("*.*", "."),
            ("a.", "a."),
            ("#.a.#", "x.a.y"),
            ("*.#", "a"),
        ] {
            assert!(matches(pattern, key), "{pattern} should match {key}");
        }
        for (pattern, key) in [
            ("*", ""),
            ("", "a"),
            ("a", "a."),
            ("*", "a.b"),
            ("a.#", "b.a"),
            ("a.*.c.#", "a.c"),
            ("*.#", ""),
            ("a*", "ab"),
            ("a#", "ab"),
        ] {
            assert!(!matches(pattern, key), "{pattern} should not match {key}");
        }
    }

    #[test]
    fn many_hashes_do_not_explode() {
        let mut topic = Topic::default();
        let pattern = format!("{}a", "#.".repeat(60));
        topic.bind(&bound(0, 1, &entry(&pattern)));
        topic.bind(&bound(1, 2, &entry(&"#.x.".repeat(30))));
        let key = vec!["b"; 120].join(".");
        let start = std::time::Instant::now();
        assert!(found_by(&topic, &key).is_empty());
        assert_eq!(found_by(&topic, &format!("{key}.a")), [1]);
        assert!(start.elapsed() < std::time::Duration::from_secs(1));
    }

    #[test]
    fn nothing_is_left_when_everything_is_unbound() {
        let mut topic = Topic::default();
        let keys = ["a.b.c", "a.b", "a.*.c", "#", "a.#.c.*", "", "a.b.c.d", "x"];
        let entries: Vec<_> = keys.iter().map(|key| entry(key)).collect();
        for (n, entry) in entries.iter().enumerate() {
            topic.bind(&bound(n as u32, 1, entry));
            topic.bind(&bound(n as u32 + 100, 2, entry));
        }
        for (n, entry) in entries.iter().enumerate() {
            topic.unbind(&bound(n as u32, 1, entry));
            assert!(found_by(&topic, keys[n].replace(['*', '#'], "c").as_str()).contains(&2));
            topic.unbind(&bound(n as u32 + 100, 2, entry));
        }
        assert_eq!(topic.nodes.len(), 1);
        assert!(topic.children.is_empty() && topic.words.numbers.is_empty());
    }

    fn word() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "c", ""])
    }

    fn part() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "*", "#", "#", ""])
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 512 }, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn it_agrees_with_the_definition(
            patterns in prop::collection::vec(prop::collection::vec(part(), 0..6), 1..24),
            removed in prop::collection::vec(any::<bool>(), 24),
            keys in prop::collection::vec(prop::collection::vec(word(), 0..7), 1..12),
        ) {
            let patterns: Vec<String> = patterns.iter().map(|parts| parts.join(".")).collect();
            let entries: Vec<_> = patterns.iter().map(|pattern| entry(pattern)).collect();
            let mut topic = Topic::default();
            for (n, entry) in entries.iter().enumerate() {
                topic.bind(&bound(n as u32, n as u32, entry));
            }
            for (n, entry) in entries.iter().enumerate().filter(|(n, _)| removed[*n]) {
                topic.unbind(&bound(n as u32, n as u32, entry));
            }
            for key in keys.iter().map(|words| words.join(".")) {
                let key_words: Vec<&[u8]> = words(key.as_bytes()).collect();
                let expected: Vec<u32> = (0..patterns.len() as u32)
                    .filter(|n| !removed[*n as usize])
                    .filter(|n| {
                        let pattern: Vec<&[u8]> = words(patterns[*n as usize].as_bytes()).collect();
                        naive(&pattern, &key_words)
                    })
                    .collect();
                prop_assert_eq!(found_by(&topic, &key), expected, "key {}", key);
            }
        }
    }
}
