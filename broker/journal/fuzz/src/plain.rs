//! Runs the targets without a fuzzing engine; see [`fulmar_fuzz`].

use fulmar_fuzz::Target;
use fulmar_journal_fuzz::record;

fn main() {
    fulmar_fuzz::main(&[Target { name: "record", run: record::run, seeds: record::seeds }]);
}
