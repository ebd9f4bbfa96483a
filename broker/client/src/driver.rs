//! The task behind a connection: moves bytes between the stream and the engine, keeps time, and brings the connection
//! back when it breaks.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use crate::engine;
use crate::request::{Reply, Request};
use crate::session::{Dispatched, Shared};
use crate::tls::failure;
use crate::topology::Redeclare;
use crate::{ConnectionEvent, Error, Reconnect};

/// Room made for each read.
const READ_BYTES: usize = 64 * 1024;

/// Buffers that grew past this are not kept for the next round.
const KEEP_BYTES: usize = 1 << 20;

/// Longest time that an orderly close may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time that the peer has to say why it no longer takes what is sent.
const REASON_TIMEOUT: Duration = Duration::from_secs(1);

/// A stream whose handshake is over, with the input that came after it.
pub(crate) struct Link<S> {
    stream: S,
    input: Vec<u8>,
}

/// Connects and logs in.
pub(crate) async fn establish<S, C, F>(shared: &Arc<Shared>, connect: &mut C) -> Result<Link<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: FnMut() -> F,
    F: Future<Output = io::Result<S>>,
{
    let limit = shared.options.connect_timeout;
    let attempt = async {
        let address = || shared.options.address();
        let stream = connect().await.map_err(|source| match failure(&shared.options, &source) {
            Some(error) => error,
            None => Error::Connect { address: address(), source: Arc::new(source) },
        })?;
        handshake(shared, stream).await
    };
    timeout(limit, attempt).await.unwrap_or(Err(Error::Timeout(limit, "the broker's greeting")))
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Arc<Shared>,
    mut stream: S,
) -> Result<Link<S>, Error> {
    {
        let mut state = shared.lock();
        let mut options = shared.options.clone();
        options.frame_max_bytes = options.frame_max_bytes.min(shared.frame_limit.bytes());
        state.engine = engine::engine(&options, now());
        state.epoch += 1;
    }
    let mut input = Vec::with_capacity(READ_BYTES);
    let mut events = Vec::new();
    // Whether the broker believes a certificate is known only after the handshake of TLS.
    let lost = |error| failure(&shared.options, &error).unwrap_or_else(|| lost(error));
    loop {
        let output = shared.lock().engine.take_output(Vec::new(), now());
        let written = async {
            stream.write_all(&output).await?;
            stream.flush().await
        };
        let written = written.await;
        let read = stream.read_buf(&mut input).await;
        // Why nothing can be written may be among what the broker has sent.
        let read = match (written, read) {
            (Err(error), Ok(0)) => return Err(lost(error)),
            (Err(error), Err(reason)) if failure(&shared.options, &reason).is_none() => {
                return Err(lost(error));
            }
            (_, read) => read.map_err(lost)?,
        };
        if read == 0 {
            let logging_in = shared.lock().engine.is_logging_in();
            return Err(if logging_in {
                Error::Login {
                    address: shared.options.address(),
                    user: shared.options.user.clone(),
                    text: "it hung up during the login".into(),
                }
            } else {
                Error::ConnectionLost("the peer hung up during the greeting".into())
            });
        }
        let dispatched = {
            let mut state = shared.lock();
            let taken = state.engine.receive(&input, now(), &mut events)?;
            input.drain(..taken);
            shared.dispatch(&mut state, &mut events)
        };
        match dispatched {
            Some(Dispatched::Connected) => return Ok(Link { stream, input }),
            Some(Dispatched::Closed(result)) => {
                let output = shared.lock().engine.take_output(Vec::new(), now());
                // The peer has said its last word; it may not listen any more.
                let _ = stream.write_all(&output).await;
                return Err(result.err().unwrap_or(Error::Closed));
            }
            None => {}
        }
    }
}

/// Runs a connection, and those that follow it, to the end.
pub(crate) async fn run<S, C, F>(shared: Arc<Shared>, mut link: Link<S>, mut connect: C)
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: FnMut() -> F,
    F: Future<Output = io::Result<S>>,
{
    let mut restoring = false;
    let end = loop {
        let restored = async {
            if restoring {
                restore(&shared).await;
            }
            std::future::pending().await
        };
        let error = tokio::select! {
            result = pump(&shared, link) => match result {
                Ok(()) => break Error::Closed,
                Err(error) => error,
            },
            never = restored => never,
        };
        let reconnect = match &shared.options.reconnect {
            Some(reconnect) if error.is_transient() && !shared.lock().closing => reconnect,
            _ => break error,
        };
        shared.lock().connection_lost(&shared.options, &error);
        shared.changed.notify_waiters();
        let _ = shared.events.send(ConnectionEvent::Disconnected(error));
        match connect_again(&shared, reconnect, &mut connect).await {
            Ok(again) => link = again,
            Err(error) => break error,
        }
        restoring = true;
    };
    shared.lock().connection_closed(&end);
    shared.changed.notify_waiters();
    let _ = shared.events.send(ConnectionEvent::Closed(end));
}

async fn connect_again<S, C, F>(
    shared: &Arc<Shared>,
    reconnect: &Reconnect,
    connect: &mut C,
) -> Result<Link<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: FnMut() -> F,
    F: Future<Output = io::Result<S>>,
{
    let mut attempt = 0;
    loop {
        let deadline = Instant::now() + delay(reconnect, attempt);
        while Instant::now() < deadline {
            if shared.lock().closing {
                return Err(Error::Closed);
            }
            tokio::select! {
                () = sleep_until(deadline) => {}
                () = shared.wake.notified() => {}
            }
        }
        let error = match establish(shared, connect).await {
            Ok(link) => return Ok(link),
            Err(error) => error,
        };
        attempt += 1;
        if !error.is_transient() || reconnect.max_attempts.is_some_and(|max| attempt >= max) {
            return Err(error);
        }
    }
}

/// Doubles from attempt to attempt, up to the limit; up to a quarter less, so that clients of one broker spread.
fn delay(reconnect: &Reconnect, attempt: u32) -> Duration {
    let full = reconnect.first_delay.saturating_mul(1 << attempt.min(16)).min(reconnect.max_delay);
    // A hasher's random keys are randomness enough for this.
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), attempt);
    full - full.mul_f64((random % 1024) as f64 / 4096.0)
}

/// Moves bytes until the connection ends: in order (`Ok`), or for a reason.
async fn pump<S: AsyncRead + AsyncWrite + Unpin>(shared: &Arc<Shared>, link: Link<S>) -> Result<(), Error> {
    let (mut reader, mut writer) = tokio::io::split(link.stream);
    let mut input = link.input;
    let mut events = Vec::new();
    let mut sending = Vec::new();
    let mut sent = 0;
    // What was written may still be with the stream, if that is more than a socket.
    let mut unflushed = false;
    // Why the connection will end when `deadline` comes.
    let mut end: Option<Error> = None;
    let mut deadline: Option<Instant> = None;

    if !input.is_empty() {
        take_input(shared, &mut input, &mut events)?;
    }
    loop {
        let listening = shared.has_room();
        let next_tick = {
            let mut state = shared.lock();
            if state.closing && deadline.is_none() {
                state.engine.close();
                end = Some(Error::Timeout(CLOSE_TIMEOUT, "the broker's goodbye"));
                deadline = Some(Instant::now() + CLOSE_TIMEOUT);
            }
            if sent == sending.len() && state.engine.output_bytes() > 0 {
                if sending.capacity() > KEEP_BYTES {
                    sending = Vec::new();
                }
                sending.clear();
                sent = 0;
                sending = state.engine.take_output(std::mem::take(&mut sending), now());
                state.in_flight_bytes = sending.len();
            }
            state.engine.next_tick().map(Instant::from_std)
        };
        let next_tick = match (next_tick, deadline) {
            (Some(tick), Some(deadline)) => Some(tick.min(deadline)),
            (tick, deadline) => tick.or(deadline),
        };
        if input.len() == input.capacity() || input.capacity() - input.len() < READ_BYTES / 4 {
            input.reserve(READ_BYTES);
        }
        tokio::select! {
            read = reader.read_buf(&mut input), if listening => {
                if read.map_err(|error| end.take().unwrap_or_else(|| lost(error)))? == 0 {
                    return Err(end.unwrap_or_else(|| Error::ConnectionLost("the broker hung up".into())));
                }
                if let Some(closed) = take_input(shared, &mut input, &mut events)? {
                    let output = shared.lock().engine.take_output(Vec::new(), now());
                    // The broker waits for this answer, but owes none.
                    let last = async {
                        writer.write_all(&sending[sent..]).await?;
                        writer.write_all(&output).await?;
                        writer.shutdown().await
                    };
                    let _ = timeout(REASON_TIMEOUT, last).await;
                    return closed;
                }
            }
            written = write_or_flush(&mut writer, &sending[sent..]), if sent < sending.len() || unflushed => match written {
                Ok(0) => unflushed = false,
                Ok(bytes) => {
                    sent += bytes;
                    unflushed = true;
                    if sent == sending.len() {
                        shared.lock().in_flight_bytes = 0;
                        shared.changed.notify_waiters();
                    }
                }
                Err(error) => {
                    // The peer's reason may be among what it has sent.
                    end = Some(lost(error));
                    deadline = Some(Instant::now() + REASON_TIMEOUT);
                    sending.clear();
                    sent = 0;
                    unflushed = false;
                }
            },
            () = shared.wake.notified() => {}
            () = sleep_until(next_tick.unwrap_or_else(Instant::now)), if next_tick.is_some() => {
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Err(end.unwrap_or(Error::Closed));
                }
                shared.lock().engine.tick(now(), listening)?;
            }
        }
    }
}

/// Writes some of what there is to write, or else flushes, which is 0 bytes. May be given up at any time.
async fn write_or_flush<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8]) -> io::Result<usize> {
    match bytes {
        [] => writer.flush().await.map(|()| 0),
        bytes => writer.write(bytes).await,
    }
}

/// Lets the engine take what has come. `Some` when the connection is over.
fn take_input(
    shared: &Arc<Shared>,
    input: &mut Vec<u8>,
    events: &mut Vec<engine::Event>,
) -> Result<Option<Result<(), Error>>, Error> {
    let mut state = shared.lock();
    let taken = state.engine.receive(input, now(), events);
    // What came before a violation of the protocol still counts.
    let dispatched = shared.dispatch(&mut state, events);
    input.drain(..taken?);
    if input.is_empty() && input.capacity() > KEEP_BYTES {
        *input = Vec::new();
    }
    Ok(match dispatched {
        Some(Dispatched::Closed(result)) => Some(result),
        Some(Dispatched::Connected) | None => None,
    })
}

/// Brings a new connection to where the last one was, then lets the handles use it.
async fn restore(shared: &Arc<Shared>) {
    if shared.options.reconnect.as_ref().is_some_and(|reconnect| reconnect.topology) {
        restore_topology(shared).await;
    }
    let channels = shared.lock().restorable_channels();
    for (channel, requests) in channels {
        restore_channel(shared, channel, requests).await;
    }
    {
        let mut state = shared.lock();
        if !state.engine.is_open() {
            // It broke again meanwhile; the next one will be restored from the beginning.
            return;
        }
        state.ready();
    }
    shared.changed.notify_waiters();
    shared.wake.notify_one();
    let _ = shared.events.send(ConnectionEvent::Reconnected);
}

async fn restore_channel(shared: &Arc<Shared>, channel: u16, requests: Vec<Request>) {
    for request in requests {
        let what = format!("{request:?}");
        if let Err(error) = shared.call_while_down(channel, request).await {
            if error.is_transient() {
                return;
            }
            shared.lock().end_channel(channel, &error);
            let _ = shared.events.send(ConnectionEvent::RecoveryFailed { what, error });
            return;
        }
    }
}

/// Declares everything again, over a channel of its own: a refusal costs that channel, not the application's.
async fn restore_topology(shared: &Arc<Shared>) {
    let Ok(mut channel) = shared.lock().allocate_channel() else { return };
    if shared.call_while_down(channel, Request::OpenChannel).await.is_err() {
        return;
    }
    let declarations = shared.lock().topology.declarations();
    for redeclare in declarations {
        restore_one(shared, &mut channel, redeclare).await;
    }
    let bindings = shared.lock().topology.bindings();
    for redeclare in bindings {
        restore_one(shared, &mut channel, redeclare).await;
    }
    let _ = shared.call_while_down(channel, Request::CloseChannel).await;
    shared.lock().abandon_channel(channel);
}

async fn restore_one(shared: &Arc<Shared>, channel: &mut u16, redeclare: Redeclare) {
    let what = format!("{:?}", redeclare.request);
    match shared.call_while_down(*channel, redeclare.request).await {
        Ok(Reply::Queue(info)) => {
            if let Some(old) = redeclare.old_name.filter(|old| *old != info.name) {
                shared.lock().rename_queue(&old, &info.name);
                let _ = shared.events.send(ConnectionEvent::QueueRenamed { old, new: info.name });
            }
        }
        Ok(_) => {}
        Err(error) if error.is_transient() => {}
        Err(error) => {
            let _ = shared.events.send(ConnectionEvent::RecoveryFailed { what, error });
            let next = {
                let mut state = shared.lock();
                state.abandon_channel(*channel);
                state.allocate_channel()
            };
            if let Ok(next) = next {
                *channel = next;
                let _ = shared.call_while_down(next, Request::OpenChannel).await;
            }
        }
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

fn lost(error: io::Error) -> Error {
    Error::ConnectionLost(error.to_string())
}
