//! Clients that work until the broker is gone. Each writes down what it is about to do before it does it, and what it
//! heard.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fulmar_client::{
    Channel, Connection, ConsumeOptions, Error, MessageProperties, Options, Protocol, Publish, QueueOptions,
    Table, Value,
};
use fulmar_transport::sim::Random;

use crate::ledger::{Ledger, Place, Stage, body};
use crate::raw::{Fault, Raw};
use crate::{EXCHANGE, FANOUT, GARDEN, LATER, QUEUES};

/// Unconfirmed publishes of a publisher.
const WINDOW: usize = 50;
/// Messages in all queues above which publishers rest.
const ENOUGH: usize = 2_000;
const REST: Duration = Duration::from_millis(5);
/// For which a message is held back.
const LONGEST_DELAY_MS: usize = 1_500;

/// What all clients share.
#[derive(Clone)]
pub struct World {
    pub addr: SocketAddr,
    pub ledger: Arc<Mutex<Ledger>>,
    pub garden: Arc<Mutex<Garden>>,
}

impl World {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    /// Ends a client. That the broker is gone is the reason it is there for.
    fn end(&self, who: &str, error: &Error) {
        match error {
            Error::Connect { .. } | Error::ConnectionLost(_) | Error::ConnectionClosed { code: 320, .. } => {}
            // It was killed while it looked at the password.
            Error::Login { text, .. } if text.contains("hung up") => {}
            error => self.ledger().faults.push(format!("{who}: {error:?}")),
        }
    }

    async fn open(&self, protocol: Protocol) -> Result<(Connection, Channel), Error> {
        let (host, port) = (self.addr.ip().to_string(), self.addr.port());
        let options = Options { protocol, host, port, ..Options::default() }.without_reconnect();
        let connection = Connection::open(options).await?;
        let channel = connection.channel().await?;
        Ok((connection, channel))
    }
}

fn any_protocol(random: &mut Random) -> Protocol {
    if random.chance(500_000) { Protocol::Amqp091 } else { Protocol::Amqp010 }
}

/// Where a publish goes: exchange, key, queues.
fn any_route(random: &mut Random) -> (&'static str, &'static str, Vec<usize>) {
    match random.below(4) {
        0 => (EXCHANGE, "", (0..FANOUT).collect()),
        _ => {
            let queue = random.below(QUEUES.len());
            ("", QUEUES[queue], vec![queue])
        }
    }
}

/// Publishes with confirms.
pub async fn publisher(world: World, mut random: Random) {
    if let Err(error) = publish(&world, &mut random).await {
        world.end("publisher", &error);
    }
}

async fn publish(world: &World, random: &mut Random) -> Result<(), Error> {
    let (_connection, channel) = world.open(any_protocol(random)).await?;
    channel.enable_confirms().await?;
    let properties = MessageProperties::persistent();
    let publisher = world.ledger().number();
    let mut open = VecDeque::new();
    loop {
        if world.ledger().len() > ENOUGH {
            tokio::time::sleep(REST).await;
        }
        let (exchange, key, queues) = any_route(random);
        let id = world.ledger().sends(publisher, &queues, None);
        let body = body(id);
        let publish = Publish::new(exchange, key, &body).properties(&properties);
        open.push_back((id, queues, channel.publish_confirmed(&publish).await?));
        let keep = if random.chance(100_000) { 0 } else { WINDOW };
        while open.len() > keep {
            let (id, queues, confirmation) = open.pop_front().expect("it is not empty");
            confirmation.await?;
            world.ledger().confirmed(&queues, id);
        }
    }
}

/// Publishes messages that are held back for a while, with confirms.
pub async fn delayer(world: World, mut random: Random) {
    if let Err(error) = delay(&world, &mut random).await {
        world.end("delayer", &error);
    }
}

async fn delay(world: &World, random: &mut Random) -> Result<(), Error> {
    let (_connection, channel) = world.open(any_protocol(random)).await?;
    channel.enable_confirms().await?;
    loop {
        if world.ledger().len() > ENOUGH {
            tokio::time::sleep(REST).await;
        }
        let delay_ms = random.below(LONGEST_DELAY_MS);
        let queue = random.below(QUEUES.len());
        let properties = MessageProperties::persistent().header("x-delay", Value::I64(delay_ms as i64));
        let id = world.ledger().sends_delayed(&[queue], Duration::from_millis(delay_ms as u64));
        let body = body(id);
        let publish = Publish::new(LATER, QUEUES[queue], &body).properties(&properties);
        channel.publish_confirmed(&publish).await?.await?;
        world.ledger().confirmed(&[queue], id);
    }
}

/// Consumes with acknowledgements.
pub async fn consumer(world: World, mut random: Random) {
    if let Err(error) = consume(&world, &mut random).await {
        world.end("consumer", &error);
    }
}

async fn consume(world: &World, random: &mut Random) -> Result<(), Error> {
    let protocol = any_protocol(random);
    let who = if protocol == Protocol::Amqp091 { "consumer 0-9-1" } else { "consumer 0-10" };
    let (_connection, channel) = world.open(protocol).await?;
    channel.set_prefetch(1 + random.below(100) as u16).await?;
    let queue = random.below(QUEUES.len());
    let mut consumer = channel.consume(QUEUES[queue], ConsumeOptions::default()).await?;
    let mut held: Vec<Place> = Vec::new();
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        let place = world.ledger().delivered(queue, delivery.body(), delivery.redelivered(), who);
        let Some(place) = place else { return Ok(()) };
        match random.below(10) {
            0 if held.is_empty() => delivery.nack(true)?,
            1 if held.len() < 10 => held.push(place),
            2 => {
                held.push(place);
                held.drain(..).for_each(|place| world.ledger().settles(place, None));
                delivery.ack_multiple()?;
            }
            _ => {
                world.ledger().settles(place, None);
                delivery.ack()?;
            }
        }
        if random.chance(100_000) {
            tokio::time::sleep(REST).await;
        }
    }
    Ok(())
}

/// Publishes and acknowledges in local transactions.
pub async fn dealer(world: World, mut random: Random) {
    if let Err(error) = deal(&world, &mut random).await {
        world.end("dealer", &error);
    }
}

async fn deal(world: &World, random: &mut Random) -> Result<(), Error> {
    let protocol = any_protocol(random);
    let who = if protocol == Protocol::Amqp091 { "dealer 0-9-1" } else { "dealer 0-10" };
    let (_connection, channel) = world.open(protocol).await?;
    channel.begin_transactions().await?;
    let properties = MessageProperties::persistent();
    loop {
        let transaction = world.ledger().begins(None);
        for _ in 0..random.below(5) {
            let (exchange, key, queues) = any_route(random);
            let id = world.ledger().sends(transaction, &queues, Some(transaction));
            let body = body(id);
            channel.publish(&Publish::new(exchange, key, &body).properties(&properties)).await?;
        }
        for _ in 0..random.below(4) {
            let queue = random.below(QUEUES.len());
            let Some(got) = channel.get(QUEUES[queue], false).await? else { continue };
            let delivery = got.delivery;
            let place = world.ledger().delivered(queue, delivery.body(), delivery.redelivered(), who);
            let Some(place) = place else { return Ok(()) };
            world.ledger().settles(place, Some(transaction));
            delivery.ack()?;
        }
        let commit = !random.chance(100_000);
        if commit {
            world.ledger().moves(transaction, Stage::Committing);
            channel.commit().await?;
        } else {
            channel.rollback().await?;
            // What was acknowledged is this session's again, and nobody else's until it lets go.
            channel.recover().await?;
        }
        world.ledger().ends(transaction, commit);
    }
}

/// Works in branches of distributed transactions. A thread of its own.
pub fn manager(world: &World, mut random: Random) {
    match manage(world, &mut random) {
        Err(Fault::Refused(text)) => world.ledger().faults.push(format!("manager: {text}")),
        Ok(()) | Err(Fault::Lost) => {}
    }
}

fn manage(world: &World, random: &mut Random) -> Result<(), Fault> {
    let name = format!("manager-{}", world.ledger().number());
    let mut raw = Raw::open(world.addr, &name)?;
    raw.select_branches()?;
    let mut left = 0;
    loop {
        let branch = format!("{name}-{}", random.next_u64());
        let transaction = world.ledger().begins(Some(branch.clone()));
        raw.start_branch(&branch)?;
        for _ in 0..random.below(5) {
            let (exchange, key, queues) = any_route(random);
            let id = world.ledger().sends(transaction, &queues, Some(transaction));
            raw.publish(exchange, key, &body(id))?;
        }
        if random.chance(700_000) {
            let queue = random.below(QUEUES.len());
            let fetched = raw.fetch(QUEUES[queue], 1 + random.below(3) as u32)?;
            for message in &fetched {
                let place = world.ledger().delivered(queue, &message.body, message.redelivered, "manager");
                let Some(place) = place else { return Ok(()) };
                world.ledger().settles(place, Some(transaction));
            }
            if !fetched.is_empty() {
                raw.accept(&fetched)?;
            }
        }
        raw.end_branch(&branch)?;
        if random.chance(400_000) {
            world.ledger().moves(transaction, Stage::Committing);
            raw.commit(&branch, true)?;
            world.ledger().ends(transaction, true);
            continue;
        }
        world.ledger().moves(transaction, Stage::Preparing);
        raw.prepare(&branch)?;
        world.ledger().moves(transaction, Stage::Prepared);
        if left < 2 && random.chance(100_000) {
            left += 1;
            continue;
        }
        decide(world, &mut raw, transaction, &branch, !random.chance(200_000))?;
    }
}

/// Ends a prepared branch.
pub fn decide(
    world: &World,
    raw: &mut Raw,
    transaction: u64,
    branch: &str,
    commit: bool,
) -> Result<(), Fault> {
    let stage = if commit { Stage::PreparedCommitting } else { Stage::PreparedRollingBack };
    world.ledger().moves(transaction, stage);
    if commit {
        raw.commit(branch, false)?;
    } else {
        raw.roll_back(branch)?;
    }
    world.ledger().ends(transaction, commit);
    Ok(())
}

/// What is known of a queue that comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    Declaring,
    Declared,
    Deleting,
}

/// Queues that come and go, each bound to one exchange by its name.
#[derive(Debug, Default)]
pub struct Garden {
    pub plants: Vec<(String, Plant)>,
    pub gone: Vec<String>,
    pub planted: u64,
}

/// Declares, binds and deletes durable queues.
pub async fn gardener(world: World, mut random: Random) {
    if let Err(error) = tend(&world, &mut random).await {
        world.end("gardener", &error);
    }
}

async fn tend(world: &World, random: &mut Random) -> Result<(), Error> {
    let (_connection, channel) = world.open(any_protocol(random)).await?;
    let set = |name: &str, plant| {
        let mut garden = world.garden.lock().unwrap();
        let at = garden.plants.iter().position(|(known, _)| known == name);
        match (at, plant) {
            (Some(at), Some(plant)) => garden.plants[at].1 = plant,
            (None, Some(plant)) => garden.plants.push((name.to_owned(), plant)),
            (Some(at), None) => {
                let (name, _) = garden.plants.swap_remove(at);
                garden.gone.push(name);
            }
            (None, None) => {}
        }
    };
    loop {
        let old = {
            let garden = world.garden.lock().unwrap();
            let declared = garden.plants.iter().filter(|(_, plant)| *plant == Plant::Declared);
            let names: Vec<_> = declared.map(|(name, _)| name.clone()).collect();
            (names.len() > 5).then(|| names[random.below(names.len())].clone())
        };
        if let Some(name) = old {
            set(&name, Some(Plant::Deleting));
            channel.delete_queue(&name, false, false).await?;
            set(&name, None);
        } else {
            let name = format!("plant-{}", world.ledger().number());
            set(&name, Some(Plant::Declaring));
            channel.declare_queue(&name, QueueOptions::durable()).await?;
            channel.bind_queue(&name, GARDEN, &name, Table::default()).await?;
            set(&name, Some(Plant::Declared));
            world.garden.lock().unwrap().planted += 1;
        }
        tokio::time::sleep(REST).await;
    }
}
