//! `topic`: keys are words between dots; in a binding key `*` stands for one word, `#` for any number of them.
//!
//! The binding keys form a trie over words. Matching walks all nodes that the words so far may lead to at once. Only a
//! `#` node can be reached twice, and it stays once reached; each is therefore taken in once per message, and the work
//! is bounded by words times nodes however many `#` there are.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use slab::Slab;

use super::{Binding, Destination, Destinations, ExchangeType, Scratch};
use crate::Name;
use crate::hash::Map;
use crate::topology::{Marks, Routable};

/// The node of the empty key.
const ROOT: u32 = 0;

/// Binding keys as a trie.
pub(super) struct Topic {
    nodes: Slab<Node>,
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
    words: Slab<Word>,
    numbers: HashTable<u32>,
}

struct Word {
    text: Box<[u8]>,
    /// Nodes that are reached by it.
    holders: u32,
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
        let mut nodes = Slab::new();
        assert_eq!(nodes.insert(Node::default()), ROOT as usize);
        Topic { nodes, children: Map::default(), words: Words::default() }
    }
}

impl ExchangeType for Topic {
    fn bind(&mut self, binding: &Binding<'_>) -> u32 {
        let mut node = ROOT;
        for word in words(binding.entry.key.as_bytes()) {
            node = match word {
                b"*" => self.nodes[node as usize].star.unwrap_or_else(|| self.grow(node, Step::Star)),
                b"#" => self.nodes[node as usize].hash.unwrap_or_else(|| self.grow(node, Step::Hash)),
                _ => {
                    let number = self.words.number_or_new(word);
                    let child = self.children.get(&(node, number)).copied();
                    child.unwrap_or_else(|| self.grow(node, Step::Word(number)))
                }
            };
        }
        self.nodes[node as usize].destinations.insert(binding.destination);
        node
    }

    fn unbind(&mut self, binding: &Binding<'_>, node: u32) {
        self.nodes[node as usize].destinations.remove(binding.destination);
        self.prune(node);
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
                if let Some(word) = word
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

    /// In a run of wildcards, as many `*` as there are, then one `#` if there is any: every order of them matches the
    /// same.
    fn normal_key(&self, key: &Name) -> Name {
        if !key.as_bytes().contains(&b'#') {
            return key.clone();
        }
        let mut normal: Vec<&[u8]> = Vec::new();
        let mut open_hash = false;
        for word in words(key.as_bytes()) {
            match word {
                b"#" => open_hash = true,
                b"*" => normal.push(word),
                _ => {
                    normal.extend(std::mem::take(&mut open_hash).then_some(&b"#"[..]));
                    normal.push(word);
                }
            }
        }
        normal.extend(open_hash.then_some(&b"#"[..]));
        Name::from(normal.join(&b'.').as_slice())
    }

    fn destinations(&self, key: &[u8]) -> Option<&[Destination]> {
        let node = self.find(key);
        Some(node.map_or(&[], |node| self.nodes[node as usize].destinations.as_slice()))
    }
}

impl Topic {
    /// The node of a binding key, if there is one.
    fn find(&self, key: &[u8]) -> Option<u32> {
        let mut node = ROOT;
        for word in words(key) {
            node = match word {
                b"*" => self.nodes[node as usize].star?,
                b"#" => self.nodes[node as usize].hash?,
                _ => *self.children.get(&(node, self.words.number(word)?))?,
            };
        }
        Some(node)
    }

    fn grow(&mut self, parent: u32, step: Step) -> u32 {
        let child = self.nodes.insert(Node { parent, step, ..Node::default() }) as u32;
        let node = &mut self.nodes[parent as usize];
        node.degree += 1;
        match step {
            Step::Root => unreachable!("the root is nobody's child"),
            Step::Star => node.star = Some(child),
            Step::Hash => node.hash = Some(child),
            Step::Word(number) => {
                self.words.words[number as usize].holders += 1;
                self.children.insert((parent, number), child);
            }
        }
        child
    }

    /// Removes what leads only to where nothing is bound any more, from the end of a key backwards.
    fn prune(&mut self, mut at: u32) {
        loop {
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
                    self.words.let_go(number);
                }
            }
            at = node.parent;
        }
    }
}

impl Words {
    /// The number of a word; none if it is in no binding key.
    fn number(&self, word: &[u8]) -> Option<u32> {
        self.numbers.find(hash(word), |&number| *self.words[number as usize].text == *word).copied()
    }

    /// The number of a word that a node is about to be reached by, if none is yet.
    fn number_or_new(&mut self, word: &[u8]) -> u32 {
        self.number(word).unwrap_or_else(|| {
            let number = self.words.insert(Word { text: word.into(), holders: 0 }) as u32;
            self.numbers.insert_unique(hash(word), number, |&other| hash(&self.words[other as usize].text));
            number
        })
    }

    /// A node less is reached by the word.
    fn let_go(&mut self, number: u32) {
        let word = &mut self.words[number as usize];
        word.holders -= 1;
        if word.holders == 0 {
            match self.numbers.find_entry(hash(&word.text), |&other| other == number) {
                Ok(found) => drop(found.remove()),
                Err(_) => unreachable!("every word is in the table"),
            }
            self.words.remove(number as usize);
        }
    }
}

fn hash(word: &[u8]) -> u64 {
    crate::hash::Hashing::default().hash_one(word)
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
        let mut places = Vec::new();
        for (n, entry) in entries.iter().enumerate() {
            let place = topic.bind(&bound(n as u32, 1, entry));
            assert_eq!(topic.bind(&bound(n as u32 + 100, 2, entry)), place);
            places.push(place);
        }
        for (n, entry) in entries.iter().enumerate() {
            topic.unbind(&bound(n as u32, 1, entry), places[n]);
            assert!(found_by(&topic, keys[n].replace(['*', '#'], "c").as_str()).contains(&2));
            topic.unbind(&bound(n as u32 + 100, 2, entry), places[n]);
        }
        assert_eq!(topic.nodes.len(), 1);
        assert!(topic.children.is_empty() && topic.words.words.is_empty() && topic.words.numbers.is_empty());
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
            let bind = |(n, entry)| topic.bind(&bound(n as u32, n as u32, entry));
            let places: Vec<u32> = entries.iter().enumerate().map(bind).collect();
            for (n, entry) in entries.iter().enumerate().filter(|(n, _)| removed[*n]) {
                topic.unbind(&bound(n as u32, n as u32, entry), places[n]);
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
