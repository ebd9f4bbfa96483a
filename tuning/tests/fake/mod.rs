//! Hosts that are directories, built from compact descriptions: a line a file.
//!
//! * `path = content`, with `\n`, `\t` and `\xHH`; `path -> target` is a symbolic link; `path/` a directory.
//! * A path with `{0-3,8}` stands for one with each number; `{n}`, `{n+1}`, `{n-1}` in the content follow it.
//! * `#` begins a comment line.

#![allow(dead_code, reason = "each test uses another part of it")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use fulmar_tuning::{CpuSet, Root};

/// A host that is gone with this value.
pub struct FakeHost {
    directory: tempfile::TempDir,
}

impl FakeHost {
    /// The host described in `tests/hosts`.
    pub fn named(name: &str) -> FakeHost {
        let path = tests().join(format!("hosts/{name}.txt"));
        FakeHost::described(&fs::read_to_string(path).unwrap())
    }

    /// A host of these lines.
    pub fn described(description: &str) -> FakeHost {
        // Thousands of small files are a matter for memory, where there is such a directory.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let host = FakeHost { directory: directory.unwrap() };
        for line in description.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            host.add(line);
        }
        host
    }

    pub fn root(&self) -> Root {
        Root::new(self.directory.path())
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where `path` of the host really lies.
    pub fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path.trim_start_matches('/'))
    }

    fn add(&self, line: &str) {
        let Some((before, rest)) = line.split_once('{').filter(|(before, _)| !before.contains([' ', '=']))
        else {
            return self.make(line);
        };
        let (numbers, after) = rest.split_once('}').unwrap();
        for number in numbers.parse::<CpuSet>().unwrap().iter() {
            self.make(&counted(&format!("{before}{number}{after}"), i64::from(number)));
        }
    }

    fn make(&self, line: &str) {
        if let Some((path, target)) = line.split_once(" -> ") {
            return symlink(target, self.parented(path)).unwrap();
        }
        match line.split_once(" =") {
            Some((path, content)) => fs::write(self.parented(path), unescaped(content.trim_start())).unwrap(),
            None => fs::create_dir_all(self.path(line)).unwrap(),
        }
    }

    fn parented(&self, path: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }
}

/// Replaces `{n}`, `{n+1}`, `{n-1}`.
fn counted(line: &str, number: i64) -> String {
    let mut parts = line.split("{n");
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        let (offset, rest) = part.split_once('}').unwrap();
        let offset: i64 = if offset.is_empty() { 0 } else { offset.parse().unwrap() };
        text += &format!("{}{rest}", number + offset);
    }
    text
}

/// The bytes of a content, with a line feed, as the kernel ends its files.
fn unescaped(content: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = content;
    while let Some((before, escaped)) = rest.split_once('\\') {
        bytes.extend(before.bytes());
        rest = match escaped.as_bytes()[0] {
            b'n' => {
                bytes.push(b'\n');
                &escaped[1..]
            }
            b't' => {
                bytes.push(b'\t');
                &escaped[1..]
            }
            b'x' => {
                bytes.push(u8::from_str_radix(&escaped[1..3], 16).unwrap());
                &escaped[3..]
            }
            other => panic!("\\{}", other as char),
        };
    }
    bytes.extend(rest.bytes());
    bytes.push(b'\n');
    bytes
}

/// The directory that this file's directory is in.
pub fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// Holds `text` against a file in the repository. With `FULMAR_UPDATE_GOLDEN` set, writes the file instead.
pub fn assert_golden(path: &Path, text: &str) {
    if std::env::var_os("FULMAR_UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        return fs::write(path, text).unwrap();
    }
    let golden = fs::read_to_string(path).unwrap_or_default();
    assert!(
        golden == text,
        "{} is otherwise; FULMAR_UPDATE_GOLDEN=1 writes it anew. Now:\n{text}",
        path.display()
    );
}
