//! The book's reference of options is what the table of options says. `UPDATE_BOOK=1 cargo test -p fulmar --test book`
//! writes it anew.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use fulmar_server::settings::SPECS;

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
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/reference/options.md");
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

fn reference() -> String {
    let mut page = HEAD.to_string();
    for spec in SPECS {
        let value =
            if spec.value.is_empty() { "`true`, `false`".to_string() } else { spec.value.to_string() };
        let default = if spec.default.is_empty() { String::new() } else { format!("`{}`", spec.default) };
        writeln!(page, "| `{}` | {value} | {default} | {} |", spec.name, spec.help.replace('|', "\\|"))
            .unwrap();
    }
    page
}
