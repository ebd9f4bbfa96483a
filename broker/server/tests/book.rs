//! The book's reference says what the program does. `UPDATE_BOOK=1 cargo test -p fulmar --test book` writes the page of
//! options anew.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fulmar_server::settings::specs;

const HEAD: &str = "\
# Options of the broker

`fulmar serve` takes each option on the command line (`--name value`), in the environment (`FULMAR_NAME`), or in a file
of `name=value` lines named by `--config` or `FULMAR_CONFIG`. The command line goes before the environment, the
environment before the file. `fulmar serve --show-config` prints what came out, each value with its origin; that output
can itself be a file. An unknown option or a bad value is refused, with the place where it stands.

Sizes may end in `K`, `M` or `G`; times are seconds and may have a fraction. In a file everything after ` #` is a
comment.

| option | value | default | |
|---|---|---|---|
";

#[test]
fn reference_of_options_is_up_to_date() {
    let path = page("options.md");
    let wanted = reference();
    if std::env::var_os("UPDATE_BOOK").is_some() {
        fs::write(&path, wanted).unwrap();
    } else {
        assert!(
            fs::read_to_string(&path).unwrap() == wanted,
            "run UPDATE_BOOK=1 cargo test -p fulmar --test book"
        );
    }
}

#[test]
fn commands_have_the_options_that_the_reference_names() {
    let page = fs::read_to_string(page("commands.md")).unwrap();
    let mut sections = page.split("\n## fulmar ").skip(1);
    assert!(sections.clone().count() >= 5);
    while let Some((name, section)) = sections.next().and_then(|section| section.split_once('\n')) {
        let help = help(name, section);
        for option in options(section) {
            assert!(help.contains(option), "fulmar {name} has no {option}");
        }
    }
}

/// The help of a command, and of those of its subcommands that the section shows.
fn help(command: &str, section: &str) -> String {
    let subcommand = |line: &str| {
        let rest = line.strip_prefix(&format!("$ fulmar {command} "))?;
        Some(rest.split(' ').next()?.to_string()).filter(|word| word.chars().all(char::is_alphabetic))
    };
    let mut calls = vec![vec![command.to_string()]];
    calls.extend(section.lines().filter_map(subcommand).map(|word| vec![command.to_string(), word]));
    let texts = calls.iter().map(|words| {
        let output = Command::new(env!("CARGO_BIN_EXE_fulmar")).args(words).arg("--help").output().unwrap();
        assert!(output.status.success(), "fulmar {} --help fails", words.join(" "));
        String::from_utf8(output.stdout).unwrap()
    });
    texts.collect()
}

/// The words of a text that begin with two dashes.
fn options(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    words.filter(|word| word.len() > 2 && word.starts_with("--") && !word.starts_with("---"))
}

fn page(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/reference").join(name)
}

fn reference() -> String {
    let mut page = HEAD.to_string();
    for spec in specs() {
        let value =
            if spec.value.is_empty() { "`true`, `false`".to_string() } else { spec.value.to_string() };
        let default = if spec.default.is_empty() { String::new() } else { format!("`{}`", spec.default) };
        writeln!(page, "| `{}` | {value} | {default} | {} |", spec.name, spec.help.replace('|', "\\|"))
            .unwrap();
    }
    page
}
