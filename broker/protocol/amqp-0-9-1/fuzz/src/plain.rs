//! Runs the targets without a fuzzing engine; see [`fulmar_fuzz`].

use fulmar_amqp_0_9_1_fuzz::{codec, connection};
use fulmar_fuzz::Target;

fn main() {
    fulmar_fuzz::main(&[
        Target { name: "codec", run: codec::run, seeds: codec::seeds },
        Target { name: "connection", run: connection::run, seeds: connection::seeds },
    ]);
}
