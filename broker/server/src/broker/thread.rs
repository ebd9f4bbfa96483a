//! The thread of a shard: what it begins with, what it is told while the broker starts, what it answers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use fulmar_core::mesh::MeshEnd;
use fulmar_core::shard::Envelope;
use fulmar_core::topology::RestoreError;
use fulmar_core::{Clock, Name, Shard, ShardConfig};
use fulmar_transport::{
    AnyTransport, Config as TransportConfig, IoChoice, ListenerId, Transport, Waker, open,
};

use super::{StartError, configuring, rdma};
use crate::affinity;
use crate::handshake::Desk;
use crate::login::{Asker, Mailbox};
use crate::settings::Settings;
use crate::store::ShardStore;
use crate::worker::{Counters, Note, Outlook, Worker, WorkerConfig};

/// Connections that may wait to be accepted.
pub(super) const BACKLOG: u32 = 4096;

/// A shard that serves.
pub(super) struct RunningShard {
    pub(super) notes: Sender<Note>,
    pub(super) waker: Arc<dyn Waker>,
    pub(super) counters: Arc<Counters>,
    pub(super) outlook: Arc<Outlook>,
    pub(super) thread: Option<JoinHandle<io::Result<()>>>,
}

/// What a starting thread is told, in this order.
pub(super) enum ToShard {
    Start {
        mesh: MeshEnd<Envelope>,
        asker: Asker,
        desk: Option<Desk>,
        store: Option<Box<ShardStore>>,
        outlook: Arc<Outlook>,
        neighbours: Vec<Mailbox>,
    },
    Listen(SocketAddr, Port),
    Run,
}

/// What a port is for.
#[derive(Clone, Copy)]
pub(super) enum Port {
    /// Everything that is spoken.
    Shared,
    /// TLS alone.
    Secure,
}

/// What it answers.
enum FromShard {
    Opened { waker: Arc<dyn Waker>, io: IoChoice, name: &'static str },
    Restored,
    NotRestored(RestoreError),
    Listening(SocketAddr),
    Failed(io::Error),
}

/// A shard whose thread has its reactor and waits to be told more.
pub(super) struct Starting {
    pub(super) index: usize,
    to: Sender<ToShard>,
    from: Receiver<FromShard>,
    pub(super) notes: Sender<Note>,
    pub(super) counters: Arc<Counters>,
    pub(super) outlook: Arc<Outlook>,
    pub(super) waker: Arc<dyn Waker>,
    pub(super) io: IoChoice,
    pub(super) io_name: &'static str,
    thread: JoinHandle<io::Result<()>>,
}

impl Starting {
    pub(super) fn spawn(
        settings: &Settings,
        index: usize,
        cpu: Option<usize>,
        io: IoChoice,
        rdma: Option<rdma::Share>,
        worker: WorkerConfig,
        ended: Sender<usize>,
    ) -> Result<Self, StartError> {
        let (to, inbox) = channel();
        let (outbox, from) = channel();
        let (notes, worker_inbox) = channel();
        let counters = Arc::new(Counters::default());
        let seat = Seat {
            index,
            cpu,
            io,
            rdma,
            transport: configuring::transport_config(settings),
            shard: configuring::shard_config(settings, index),
            default_group: Name::from(&settings.default_message_group[..]),
            worker,
            notes: worker_inbox,
            counters: counters.clone(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("fulmar-shard-{index}"))
            .spawn(move || {
                let _end = TellEnd { index, ended };
                let result = seat.run(&inbox, &outbox);
                if let Err(error) = &result {
                    log::error!("shard {index} failed: {error}");
                }
                result
            })
            .map_err(StartError::Thread)?;
        match from.recv() {
            Ok(FromShard::Opened { waker, io, name }) => {
                let outlook = Arc::default();
                Ok(Starting { index, to, from, notes, counters, outlook, waker, io, io_name: name, thread })
            }
            Ok(FromShard::Failed(error)) => Err(StartError::Reactor(index, error)),
            Ok(_) | Err(_) => Err(panicked(index)),
        }
    }

    /// Waits until the shard has what was recovered.
    pub(super) fn restored(&self) -> Result<(), StartError> {
        match self.from.recv() {
            Ok(FromShard::Restored) => Ok(()),
            Ok(FromShard::NotRestored(error)) => Err(StartError::Restore(self.index, error)),
            Ok(_) | Err(_) => Err(panicked(self.index)),
        }
    }

    pub(super) fn tell(&self, what: ToShard) {
        // A thread that is gone is noticed by its silence.
        let _ = self.to.send(what);
    }

    fn listen(&self, addr: SocketAddr, port: Port) -> Result<SocketAddr, StartError> {
        self.tell(ToShard::Listen(addr, port));
        match self.from.recv() {
            Ok(FromShard::Listening(addr)) => Ok(addr),
            Ok(FromShard::Failed(error)) => Err(StartError::Listen(addr, error)),
            Ok(_) | Err(_) => Err(panicked(self.index)),
        }
    }

    pub(super) fn run(self) -> RunningShard {
        self.tell(ToShard::Run);
        RunningShard {
            notes: self.notes,
            waker: self.waker,
            counters: self.counters,
            outlook: self.outlook,
            thread: Some(self.thread),
        }
    }
}

fn panicked(index: usize) -> StartError {
    StartError::Reactor(index, io::Error::other("the shard's thread panicked"))
}

/// Tells that a shard's thread has ended, by a panic too.
struct TellEnd {
    index: usize,
    ended: Sender<usize>,
}

impl Drop for TellEnd {
    fn drop(&mut self) {
        let _ = self.ended.send(self.index);
    }
}

/// What a shard's thread begins with.
struct Seat {
    index: usize,
    cpu: Option<usize>,
    io: IoChoice,
    rdma: Option<rdma::Share>,
    transport: TransportConfig,
    shard: ShardConfig,
    default_group: Name,
    worker: WorkerConfig,
    notes: Receiver<Note>,
    counters: Arc<Counters>,
}

impl Seat {
    /// The shard's thread. Returns early when the starter has given up.
    fn run(mut self, inbox: &Receiver<ToShard>, outbox: &Sender<FromShard>) -> io::Result<()> {
        if let Some(cpu) = self.cpu
            && let Err(error) = affinity::pin(cpu)
        {
            log::warn!("shard {} cannot be pinned to CPU {cpu}: {error}", self.index);
        }
        let rdma = self.rdma.take().and_then(|share| share.open(&self.transport));
        let opened = open(self.transport.clone(), self.io);
        let opened = match (opened, rdma) {
            (Ok(transport), Some(rdma)) => {
                let io = match &transport {
                    AnyTransport::Uring(_) => IoChoice::Uring,
                    AnyTransport::Epoll(_) => IoChoice::Epoll,
                };
                match rdma.join(transport) {
                    Ok((transport, listeners)) => return self.serve(transport, io, listeners, inbox, outbox),
                    Err(error) => Err(error),
                }
            }
            (opened, _) => opened,
        };
        match opened {
            Ok(AnyTransport::Uring(inner)) => self.serve(*inner, IoChoice::Uring, vec![], inbox, outbox),
            Ok(AnyTransport::Epoll(inner)) => self.serve(*inner, IoChoice::Epoll, vec![], inbox, outbox),
            Err(error) => {
                let _ = outbox.send(FromShard::Failed(error));
                Ok(())
            }
        }
    }

    fn serve<T: Transport>(
        self,
        transport: T,
        io: IoChoice,
        listeners: Vec<ListenerId>,
        inbox: &Receiver<ToShard>,
        outbox: &Sender<FromShard>,
    ) -> io::Result<()> {
        let _ = outbox.send(FromShard::Opened { waker: transport.waker(), io, name: transport.name() });
        let Ok(ToShard::Start { mesh, asker, desk, store, outlook, neighbours }) = inbox.recv() else {
            return Ok(());
        };
        let mut shard = Shard::new(self.shard, mesh);
        shard.add_exchange_types(&[&fulmar_xml_exchange::XML]);
        shard.set_default_group(self.default_group);
        let clock = Clock { monotonic_ns: transport.now_ns(), wall_ms: transport.wall_ms() };
        shard.set_clock(clock);
        let log = match store.map(|store| store.restore(&mut shard)).transpose() {
            Ok(log) => log,
            Err(error) => {
                let _ = outbox.send(FromShard::NotRestored(error));
                return Ok(());
            }
        };
        let mut worker =
            Worker::new(transport, shard, self.worker, Box::new(asker), self.notes, self.counters);
        listeners.into_iter().for_each(|listener| worker.add_listener(listener));
        worker.set_neighbours(neighbours);
        if let Some(log) = log {
            worker.set_log(log, outlook);
        }
        if let Some(desk) = desk {
            worker.set_handshaker(Box::new(desk));
        }
        let _ = outbox.send(FromShard::Restored);
        loop {
            match inbox.recv() {
                Ok(ToShard::Listen(addr, port)) => {
                    let listening = match port {
                        Port::Shared => worker.listen(addr, BACKLOG),
                        Port::Secure => worker.listen_secure(addr, BACKLOG),
                    };
                    let answer = match listening {
                        Ok(addr) => FromShard::Listening(addr),
                        Err(error) => FromShard::Failed(error),
                    };
                    let _ = outbox.send(answer);
                }
                Ok(ToShard::Run) => return worker.run(),
                Ok(ToShard::Start { .. }) | Err(_) => return Ok(()),
            }
        }
    }
}

/// Has every shard listen on the addresses, which it returns with their ports.
pub(super) fn listen(
    shards: &[Starting],
    addresses: Vec<SocketAddr>,
    port: Port,
) -> Result<Vec<SocketAddr>, StartError> {
    let mut bound = Vec::new();
    for mut addr in addresses {
        for shard in shards {
            // The first shard picks the port where none was given.
            addr = shard.listen(addr, port)?;
        }
        bound.push(addr);
    }
    Ok(bound)
}
