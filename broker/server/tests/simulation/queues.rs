//! The queues and exchanges of every run, and where publishes go.

use fulmar_transport::sim::Random;

/// A queue of every run.
pub struct QueueSpec {
    pub name: &'static str,
    /// What is rejected, expired or too much goes to the queue of the dead.
    pub dead_letters: bool,
    pub arguments: &'static [(&'static str, Argument)],
    /// Messages may give way to others.
    pub may_vanish: bool,
    /// Messages carry the label of their publisher.
    pub is_labelled: bool,
    /// One label's messages are with one consumer at a time.
    pub is_grouped: bool,
    /// Higher priorities overtake.
    pub has_priorities: bool,
}

/// A declaration's argument.
#[derive(Clone, Copy)]
pub enum Argument {
    Number(i32),
    Text(&'static str),
}

/// A header that tells the label.
pub const LABEL: &str = "label";

const PLAIN: QueueSpec = QueueSpec {
    name: "plain",
    dead_letters: false,
    arguments: &[],
    may_vanish: false,
    is_labelled: false,
    is_grouped: false,
    has_priorities: false,
};

/// The queues; the last is that of the dead.
pub const QUEUES: [QueueSpec; 11] = [
    PLAIN,
    QueueSpec { name: "mortal", dead_letters: true, ..PLAIN },
    QueueSpec {
        name: "short",
        dead_letters: true,
        arguments: &[("x-max-length", Argument::Number(5))],
        ..PLAIN
    },
    QueueSpec {
        name: "brief",
        dead_letters: true,
        arguments: &[("x-message-ttl", Argument::Number(3))],
        ..PLAIN
    },
    QueueSpec {
        name: "strict",

        arguments: &[("x-max-length", Argument::Number(4)), ("x-overflow", Argument::Text("reject-publish"))],
        ..PLAIN
    },
    QueueSpec {
        name: "ring",
        may_vanish: true,
        arguments: &[("qpid.policy_type", Argument::Text("ring")), ("qpid.max_count", Argument::Number(5))],
        ..PLAIN
    },
    QueueSpec {
        name: "last",
        may_vanish: true,
        is_labelled: true,
        arguments: &[("qpid.last_value_queue_key", Argument::Text(LABEL))],
        ..PLAIN
    },
    QueueSpec {
        name: "grouped",
        is_labelled: true,
        is_grouped: true,
        arguments: &[
            ("qpid.group_header_key", Argument::Text(LABEL)),
            ("qpid.shared_msg_group", Argument::Number(1)),
        ],
        ..PLAIN
    },
    QueueSpec {
        name: "flowing",
        arguments: &[
            ("qpid.flow_stop_count", Argument::Number(6)),
            ("qpid.flow_resume_count", Argument::Number(3)),
        ],
        ..PLAIN
    },
    QueueSpec {
        name: "pressing",
        has_priorities: true,
        arguments: &[("x-max-priority", Argument::Number(3))],
        ..PLAIN
    },
    QueueSpec { name: "dead", ..PLAIN },
];
/// Index of the queue of the dead.
pub const DEAD: usize = QUEUES.len() - 1;

/// Where a publish goes.
#[derive(Clone, Copy, Debug)]
pub enum Route {
    /// To one queue, by the default exchange.
    Queue(usize),
    /// To `plain`, `mortal` and `short`, by a fanout exchange.
    Fanout,
    /// The same, by a topic exchange bound to it, and `brief` besides.
    Topic,
}

impl Route {
    /// To some of the run's queues.
    pub fn any(queues: &[usize], random: &mut Random) -> Self {
        match random.below(8) {
            0 => Route::Fanout,
            1 => Route::Topic,
            _ => Route::Queue(queues[random.below(queues.len() - 1)]),
        }
    }

    pub fn reaches(self, queue: usize) -> bool {
        match self {
            Route::Queue(only) => queue == only,
            Route::Fanout => queue < 3,
            Route::Topic => queue < 4,
        }
    }

    pub fn is_labelled(self) -> bool {
        (0..DEAD).any(|queue| self.reaches(queue) && QUEUES[queue].is_labelled)
    }

    pub fn has_priorities(self) -> bool {
        (0..DEAD).any(|queue| self.reaches(queue) && QUEUES[queue].has_priorities)
    }

    pub fn address(self) -> (&'static str, &'static str) {
        match self {
            Route::Queue(queue) => ("", QUEUES[queue].name),
            Route::Fanout => ("fan", "whatever"),
            Route::Topic => ("top", "a.b.c"),
        }
    }
}

/// So many of the queues, from the first on, and that of the dead are in every run.
const USUAL: usize = 5;
/// So many of the others are in each run.
const UNUSUAL: usize = 2;

/// The queues of a run.
pub fn some_queues(random: &mut Random) -> Vec<usize> {
    let mut unusual: Vec<usize> = (USUAL..DEAD).collect();
    random.shuffle(&mut unusual);
    (0..USUAL).chain(unusual.into_iter().take(UNUSUAL)).chain([DEAD]).collect()
}
