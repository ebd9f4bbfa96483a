//! What is put under load: a broker, or the floor.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::BenchError;
use crate::batch::Template;
use crate::driver::{FRAME_MAX_BYTES, Link, Session, publish_template};
use crate::options::LoadOptions;
use crate::url::Url;

/// Something that takes messages from publishers and hands them to consumers.
#[derive(Clone, Debug)]
pub enum Target {
    /// An AMQP 0-9-1 broker.
    Broker(Url),
    /// A relay without any protocol: the first connection of a pair is the consumer's, the second the publisher's.
    Relay(SocketAddr),
    /// A server that sends back what it gets.
    Echo(SocketAddr),
}

/// Connections ready for traffic.
#[derive(Debug)]
pub struct Opened {
    /// Of each publisher, with what it publishes.
    pub publishers: Vec<(Link, Template)>,
    /// Of each consumer.
    pub consumers: Vec<Link>,
    control: Option<(Session, Vec<String>)>,
}

impl Target {
    /// Opens the connections of a run, and declares its queues.
    ///
    /// # Errors
    /// Anything that went wrong.
    pub fn open(&self, options: &LoadOptions) -> Result<Opened, BenchError> {
        match self {
            Target::Broker(url) => open_broker(url, options),
            Target::Relay(address) => {
                options.check_pairs()?;
                open_pairs(options, || {
                    let consumer = connect(*address)?;
                    Ok((consumer, connect(*address)?))
                })
            }
            Target::Echo(address) => {
                options.check_pairs()?;
                open_pairs(options, || {
                    let both = connect(*address)?;
                    Ok((both.try_clone()?, both))
                })
            }
        }
    }
}

impl Opened {
    /// Deletes the queues of the run.
    ///
    /// # Errors
    /// The broker failed.
    pub fn close(control: Option<(Session, Vec<String>)>) -> Result<(), BenchError> {
        let Some((mut session, queues)) = control else { return Ok(()) };
        for queue in queues {
            session.delete_queue(&queue)?;
        }
        Ok(())
    }

    /// What [`Opened::close`] needs once the connections are in use.
    pub fn take_control(&mut self) -> Option<(Session, Vec<String>)> {
        self.control.take()
    }
}

fn open_broker(url: &Url, options: &LoadOptions) -> Result<Opened, BenchError> {
    let mut control = Session::open(url)?;
    let prefix = unique_prefix();
    let queues: Vec<String> = (0..options.queues).map(|n| format!("{prefix}.{n}")).collect();
    for queue in &queues {
        control.declare_queue(queue, options.persistent)?;
        if !options.exchange.is_empty() {
            control.bind_queue(queue, &options.exchange, queue)?;
        }
    }
    let mut consumers = Vec::new();
    for n in 0..options.consumers {
        let mut session = Session::open(url)?;
        session.consume(&queues[n % queues.len()], options.ack.batch().is_none(), options.prefetch)?;
        consumers.push(session.into_link()?);
    }
    let mut publishers = Vec::new();
    for n in 0..options.publishers {
        let mut session = Session::open(url)?;
        if options.confirm.is_some() {
            session.select_confirms()?;
        }
        let queue = &queues[n % queues.len()];
        let template = publish_template(queue, options, session.frame_max());
        publishers.push((session.into_link()?, template));
    }
    Ok(Opened { publishers, consumers, control: Some((control, queues)) })
}

/// A prefix for names that no other run on the same broker uses.
pub fn unique_prefix() -> String {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    format!("fulmar-bench.{}.{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed))
}

fn open_pairs(
    options: &LoadOptions,
    mut connect: impl FnMut() -> std::io::Result<(TcpStream, TcpStream)>,
) -> Result<Opened, BenchError> {
    let mut opened = Opened { publishers: Vec::new(), consumers: Vec::new(), control: None };
    for n in 0..options.publishers {
        let (consumer, publisher) = connect()?;
        // A name as long as a broker's run uses, so that the bytes are as many.
        let queue = format!("{}.{n}", unique_prefix());
        let template = publish_template(&queue, options, FRAME_MAX_BYTES);
        opened.publishers.push((Link { socket: publisher, received: Vec::new() }, template));
        opened.consumers.push(Link { socket: consumer, received: Vec::new() });
    }
    Ok(opened)
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
