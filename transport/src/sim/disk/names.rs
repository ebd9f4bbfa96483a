//! What files are called, and what they would be called after a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Inode, Random};

/// A change that may not be on the disk yet.
#[derive(Clone)]
enum Change {
    Link(PathBuf, Inode),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

/// Names of files.
#[derive(Clone, Default)]
pub(super) struct Names {
    now: BTreeMap<PathBuf, Inode>,
    synced: BTreeMap<PathBuf, Inode>,
    /// In order of time.
    unsynced: Vec<Change>,
    directories: BTreeSet<PathBuf>,
}

fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

impl Change {
    fn directories(&self) -> [&Path; 2] {
        match self {
            Change::Link(path, _) | Change::Remove(path) => [directory_of(path); 2],
            Change::Rename(from, to) => [directory_of(from), directory_of(to)],
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, Inode>) {
        match self {
            Change::Link(path, inode) => {
                names.insert(path, inode);
            }
            Change::Remove(path) => {
                names.remove(&path);
            }
            Change::Rename(from, to) => {
                if let Some(inode) = names.remove(&from) {
                    names.insert(to, inode);
                }
            }
        }
    }
}

impl Names {
    pub(super) fn get(&self, path: &Path) -> Option<Inode> {
        self.now.get(path).copied()
    }

    pub(super) fn is_named(&self, inode: Inode) -> bool {
        self.now.values().any(|named| *named == inode)
    }

    /// Whether it has a name, or may have one after a power cut.
    pub(super) fn may_be_named(&self, inode: Inode) -> bool {
        let linked = |change: &Change| matches!(change, Change::Link(_, linked) if *linked == inode);
        self.is_named(inode)
            || self.synced.values().any(|named| *named == inode)
            || self.unsynced.iter().any(linked)
    }

    pub(super) fn list(&self, directory: &Path) -> Option<Vec<PathBuf>> {
        let below = |path: &Path| {
            let rest = path.strip_prefix(directory).ok()?;
            rest.components().next().map(|first| directory.join(first))
        };
        let paths = self.now.keys().chain(&self.directories);
        let children: BTreeSet<PathBuf> = paths.filter_map(|path| below(path)).collect();
        let is_there = !children.is_empty()
            || self.directories.contains(directory)
            || directory == Path::new("")
            || directory == Path::new("/");
        is_there.then(|| children.into_iter().collect())
    }

    pub(super) fn make_directory(&mut self, path: &Path) {
        self.directories.extend(path.ancestors().map(Path::to_owned));
    }

    pub(super) fn remove_directory(&mut self, path: &Path) {
        self.directories.remove(path);
    }

    pub(super) fn link(&mut self, path: &Path, inode: Inode) {
        self.change(|| Change::Link(path.to_owned(), inode));
    }

    pub(super) fn remove(&mut self, path: &Path) {
        self.change(|| Change::Remove(path.to_owned()));
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) {
        self.change(|| Change::Rename(from.to_owned(), to.to_owned()));
    }

    fn change(&mut self, made: impl Fn() -> Change) {
        made().apply(&mut self.now);
        self.unsynced.push(made());
    }

    /// What has changed in a directory is on the disk, and what changed before in those that files were moved from or to.
    pub(super) fn sync(&mut self, directory: &Path) {
        let mut synced = BTreeSet::from([directory.to_owned()]);
        let (mut covered, mut left) = (Vec::new(), Vec::new());
        for change in std::mem::take(&mut self.unsynced).into_iter().rev() {
            if change.directories().iter().any(|directory| synced.contains(*directory)) {
                synced.extend(change.directories().map(Path::to_owned));
                covered.push(change);
            } else {
                left.push(change);
            }
        }
        covered.into_iter().rev().for_each(|change| change.apply(&mut self.synced));
        self.unsynced = left.into_iter().rev().collect();
    }

    pub(super) fn power_cut(&mut self, random: &mut Random) {
        let mut ended: BTreeSet<PathBuf> = BTreeSet::new();
        for change in std::mem::take(&mut self.unsynced) {
            let is_over = change.directories().iter().any(|directory| ended.contains(*directory));
            if is_over || random.chance(300_000) {
                ended.extend(change.directories().map(Path::to_owned));
            } else {
                change.apply(&mut self.synced);
            }
        }
        self.now = self.synced.clone();
    }
}
