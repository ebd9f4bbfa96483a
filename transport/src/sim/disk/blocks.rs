//! What stands in a file, and what of it is on the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Random;

/// Bytes that are written at once or in sectors.
pub const BLOCK_BYTES: usize = 4096;
/// Bytes that are written at once or not at all.
pub const SECTOR_BYTES: usize = 512;

/// Versions of a block that are kept since it was synced; of more the oldest are forgotten.
const MOST_VERSIONS: usize = 4;

type Block = Arc<[u8; BLOCK_BYTES]>;

#[derive(Clone)]
struct Version {
    /// Number of the write that made it.
    serial: u64,
    block: Block,
}

/// A block that has been written since it was synced.
#[derive(Clone, Default)]
struct Unsynced {
    /// Never empty; the last is what everybody reads.
    versions: Vec<Version>,
    /// A sync of it has failed: none will cover these versions.
    given_up: bool,
}

/// A file's bytes. Blocks that nobody wrote are zeros.
#[derive(Clone, Default)]
pub(super) struct Blocks {
    len: u64,
    /// How long it is after a power cut at least, or at most if it was made shorter since.
    synced_len: u64,
    synced: BTreeMap<u64, Block>,
    unsynced: BTreeMap<u64, Unsynced>,
    /// How many have it open.
    pub(super) opened: u32,
}

fn zeros() -> Block {
    Arc::new([0; BLOCK_BYTES])
}

/// The blocks that a range touches.
fn blocks_of(offset: u64, len: u64) -> std::ops::Range<u64> {
    let block = BLOCK_BYTES as u64;
    if len == 0 { 0..0 } else { offset / block..(offset + len).div_ceil(block) }
}

impl Blocks {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn taken_bytes(&self) -> u64 {
        self.len.next_multiple_of(BLOCK_BYTES as u64)
    }

    pub(super) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    fn current(&self, number: u64) -> Option<&Block> {
        match self.unsynced.get(&number) {
            Some(unsynced) => unsynced.versions.last().map(|version| &version.block),
            None => self.synced.get(&number),
        }
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> usize {
        let len = self.len.saturating_sub(offset).min(into.len() as u64) as usize;
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let within = (at % BLOCK_BYTES as u64) as usize;
            let piece = (BLOCK_BYTES - within).min(len - done);
            match self.current(at / BLOCK_BYTES as u64) {
                Some(block) => into[done..done + piece].copy_from_slice(&block[within..within + piece]),
                None => into[done..done + piece].fill(0),
            }
            done += piece;
        }
        len
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], serial: u64) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let number = at / BLOCK_BYTES as u64;
            let within = (at % BLOCK_BYTES as u64) as usize;
            let piece = (BLOCK_BYTES - within).min(bytes.len() - done);
            let mut block = self.current(number).cloned().unwrap_or_else(zeros);
            Arc::make_mut(&mut block)[within..within + piece].copy_from_slice(&bytes[done..done + piece]);
            let unsynced = self.unsynced.entry(number).or_default();
            unsynced.given_up = false;
            if unsynced.versions.len() == MOST_VERSIONS {
                unsynced.versions.remove(0);
            }
            unsynced.versions.push(Version { serial, block });
            done += piece;
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    /// Makes it so long; what is cut off is gone.
    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let kept = blocks_of(0, len).end;
            self.unsynced.retain(|number, _| *number < kept);
            self.synced.retain(|number, _| *number < kept);
            let within = (len % BLOCK_BYTES as u64) as usize;
            if within > 0 && self.current(kept - 1).is_some() {
                self.write(len, &[0; BLOCK_BYTES][within..], 0);
            }
        }
        self.len = len;
    }

    /// The writes up to this one are on the disk, but for what was given up.
    pub(super) fn sync(&mut self, writes: u64) {
        let numbers: Vec<u64> = self.unsynced.keys().copied().collect();
        for number in numbers {
            self.sync_block(number, writes);
        }
        self.synced_len = self.len;
    }

    /// What stands in a range is on the disk.
    pub(super) fn sync_range(&mut self, offset: u64, len: u64) {
        for number in blocks_of(offset, len) {
            self.sync_block(number, u64::MAX);
        }
        self.synced_len = self.synced_len.max(offset + len);
    }

    fn sync_block(&mut self, number: u64, writes: u64) {
        let Some(unsynced) = self.unsynced.get_mut(&number) else { return };
        if unsynced.given_up {
            return;
        }
        let covered = unsynced.versions.iter().take_while(|version| version.serial <= writes).count();
        if let Some(last) = unsynced.versions.drain(..covered).next_back() {
            self.synced.insert(number, last.block);
        }
        if unsynced.versions.is_empty() {
            self.unsynced.remove(&number);
        }
    }

    /// A sync of a range has failed.
    pub(super) fn give_up(&mut self, offset: u64, len: u64) {
        for (_, unsynced) in self.unsynced.range_mut(blocks_of(offset, len)) {
            unsynced.given_up = true;
        }
    }

    pub(super) fn flip(&mut self, offset: u64, bits: u8) {
        let (number, within) = (offset / BLOCK_BYTES as u64, (offset % BLOCK_BYTES as u64) as usize);
        let flip = |block: &mut Block| Arc::make_mut(block)[within] ^= bits;
        match self.unsynced.get_mut(&number) {
            Some(unsynced) => unsynced.versions.iter_mut().for_each(|version| flip(&mut version.block)),
            None => flip(self.synced.entry(number).or_insert_with(zeros)),
        }
    }

    pub(super) fn power_cut(&mut self, random: &mut Random) {
        for (number, unsynced) in std::mem::take(&mut self.unsynced) {
            let before = self.synced.get(&number).cloned().unwrap_or_else(zeros);
            let after: Vec<Block> = unsynced.versions.into_iter().map(|version| version.block).collect();
            self.synced.insert(number, left_of(&before, &after, random));
        }
        let len = if random.chance(500_000) { self.len } else { self.synced_len };
        self.set_len(len);
        self.sync(u64::MAX);
    }
}

/// What a power cut leaves of a block.
fn left_of(before: &Block, after: &[Block], random: &mut Random) -> Block {
    let any = |random: &mut Random| match random.below(after.len() + 1) {
        0 => before.clone(),
        at => after[at - 1].clone(),
    };
    if random.chance(600_000) {
        return any(random);
    }
    let mut torn = [0; BLOCK_BYTES];
    for sector in torn.chunks_mut(SECTOR_BYTES).enumerate() {
        let from = sector.0 * SECTOR_BYTES;
        sector.1.copy_from_slice(&any(random)[from..from + SECTOR_BYTES]);
    }
    Arc::new(torn)
}
