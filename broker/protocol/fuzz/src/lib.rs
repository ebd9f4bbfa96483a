//! Runs fuzz targets without a fuzzing engine: `plain TARGET SECONDS [CORPUS]` tries mutations of the corpus and of the
//! seeds for that long; `plain TARGET seeds FOLDER` writes the seeds as files.

use std::path::Path;
use std::time::{Duration, Instant};

/// A fuzz target.
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Takes any bytes; panics only if the code under test is wrong.
    pub run: fn(&[u8]),
    /// Well-formed inputs and their names.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
}

/// Does what the command line asks for, with one of `targets`.
pub fn main(targets: &[Target]) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [name, rest @ ..] = arguments.as_slice() else { usage() };
    let Some(target) = targets.iter().find(|target| target.name == *name) else { usage() };
    match rest {
        ["seeds", folder] => write_seeds(target, Path::new(folder)),
        [seconds, corpus @ ..] => {
            let Ok(seconds) = seconds.parse() else { usage() };
            let mut inputs: Vec<Vec<u8>> = (target.seeds)().into_iter().map(|(_, bytes)| bytes).collect();
            corpus.iter().for_each(|folder| inputs.extend(read_folder(Path::new(folder))));
            mutate(target, &inputs, Duration::from_secs(seconds));
        }
        [] => usage(),
    }
}

fn usage() -> ! {
    eprintln!("usage: plain TARGET SECONDS [CORPUS] | plain TARGET seeds FOLDER");
    std::process::exit(2)
}

fn write_seeds(target: &Target, folder: &Path) {
    std::fs::create_dir_all(folder).expect("the folder can be made");
    for (name, bytes) in (target.seeds)() {
        std::fs::write(folder.join(format!("seed-{name}")), bytes).expect("the folder can be written to");
    }
}

fn read_folder(folder: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("the corpus is there");
    entries.filter_map(|entry| std::fs::read(entry.ok()?.path()).ok()).collect()
}

/// Every input as it is, then random changes of them. A panic names the number from which the input follows.
fn mutate(target: &Target, inputs: &[Vec<u8>], for_this_long: Duration) {
    inputs.iter().for_each(|input| (target.run)(input));
    let end = Instant::now() + for_this_long;
    let mut runs = 0u64;
    while Instant::now() < end {
        let input = mutant(inputs, runs);
        let outcome = std::panic::catch_unwind(|| (target.run)(&input));
        assert!(outcome.is_ok(), "{}: fails on mutant {runs}: {input:02x?}", target.name);
        runs += 1;
    }
    println!("{}: {} inputs, {runs} mutants", target.name, inputs.len());
}

fn mutant(inputs: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut state = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % below.max(1)
    };
    let mut bytes = inputs[random(inputs.len())].clone();
    for _ in 0..=random(4) {
        let at = random(bytes.len());
        match random(5) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xce, 0xff][random(6)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random(256) as u8),
            _ => {
                let other = &inputs[random(inputs.len())];
                let from = random(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes
}
