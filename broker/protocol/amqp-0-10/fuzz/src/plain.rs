//! Runs the targets without a fuzzing engine; see [`fulmar_fuzz`].

use fulmar_amqp_0_10_fuzz::{codec, connection, message};
use fulmar_fuzz::Target;

fn main() {
    fulmar_fuzz::main(&[
        Target { name: "codec-0-10", run: codec::run, seeds: codec::seeds },
        Target { name: "connection-0-10", run: connection::run, seeds: connection::seeds },
        Target { name: "message-0-10", run: message::run, seeds: message::seeds },
    ]);
}
