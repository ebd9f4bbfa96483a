//! `exchange.*` and `queue.*`: checks what the client asks for and passes it on as requests.

use fulmar_core::request::{DestinationKind, ExchangeOptions, QueueOptions};
use fulmar_core::{Name, Refusal, Request};

use super::Env;
use super::arguments;
use super::channel::{Channel, Flow, Step, decoded};
use super::consume::is_reply_queue;
use super::errors::{Exception, Subject};
use crate::codec::{Method, reply_code as code};

impl Channel {
    /// `exchange.*`.
    pub fn exchange_method(&mut self, env: &mut Env<'_>, method: Method<'_>) -> Result<Flow, Exception> {
        let vhost = env.link.vhost;
        match method {
            Method::ExchangeDeclare {
                exchange,
                type_,
                passive,
                durable,
                auto_delete,
                internal,
                no_wait,
                arguments,
            } => {
                let name = named_exchange(exchange)?;
                let subject = Subject::exchange(&name);
                let options = if passive {
                    ExchangeOptions::default()
                } else {
                    let arguments = decoded(arguments)?;
                    let about = subject.in_vhost(&env.link.vhost_name);
                    ExchangeOptions {
                        kind: Name::from(type_),
                        durable,
                        auto_delete,
                        internal,
                        alternate: arguments::exchange_name(&arguments, "alternate-exchange", &about)?,
                        arguments,
                    }
                };
                let request = Request::DeclareExchange { vhost, name, passive, options };
                let step = Step::Ok((!no_wait).then_some(Method::ExchangeDeclareOk));
                self.request(env, request, Some(subject), step)
            }
            Method::ExchangeDelete { exchange, if_unused, no_wait } => {
                let name = named_exchange(exchange)?;
                let subject = Subject::exchange(&name);
                let request = Request::DeleteExchange { vhost, name, if_unused };
                let step = Step::Ok((!no_wait).then_some(Method::ExchangeDeleteOk));
                self.request(env, request, Some(subject), step)
            }
            Method::ExchangeBind { destination, source, routing_key, no_wait, arguments } => {
                let source = named_exchange(source)?;
                let destination = named_exchange(destination)?;
                let (key, arguments) = (Name::from(routing_key), decoded(arguments)?);
                let kind = DestinationKind::Exchange;
                let request = Request::Bind { vhost, source, destination, kind, key, arguments };
                let step = Step::Ok((!no_wait).then_some(Method::ExchangeBindOk));
                self.request(env, request, None, step)
            }
            Method::ExchangeUnbind { destination, source, routing_key, no_wait, arguments } => {
                let source = named_exchange(source)?;
                let destination = named_exchange(destination)?;
                let (key, arguments) = (Name::from(routing_key), decoded(arguments)?);
                let kind = DestinationKind::Exchange;
                let request = Request::Unbind { vhost, source, destination, kind, key, arguments };
                let step = Step::Ok((!no_wait).then_some(Method::ExchangeUnbindOk));
                self.request(env, request, None, step)
            }
            other => unreachable!("{} is not of class exchange", other.name()),
        }
    }

    /// `queue.*`.
    pub fn queue_method(&mut self, env: &mut Env<'_>, method: Method<'_>) -> Result<Flow, Exception> {
        let vhost = env.link.vhost;
        match method {
            Method::QueueDeclare { .. } => self.declare_queue(env, method),
            Method::QueueDelete { queue, if_unused, if_empty, no_wait } => {
                let name = self.queue_name(queue)?;
                let subject = Subject::queue(&name);
                let request = Request::DeleteQueue { vhost, name, if_unused, if_empty };
                self.request(env, request, Some(subject), Step::Deleted { no_wait })
            }
            Method::QueuePurge { queue, no_wait } => {
                let name = self.queue_name(queue)?;
                let subject = Subject::queue(&name);
                self.request(
                    env,
                    Request::PurgeQueue { vhost, name },
                    Some(subject),
                    Step::Purged { no_wait },
                )
            }
            Method::QueueBind { queue, exchange, routing_key, no_wait, arguments } => {
                let (destination, key) = self.binding(queue, routing_key)?;
                let source = named_exchange(exchange)?;
                let subject = Subject::queue(&destination);
                let (kind, arguments) = (DestinationKind::Queue, decoded(arguments)?);
                let request = Request::Bind { vhost, source, destination, kind, key, arguments };
                let step = Step::Ok((!no_wait).then_some(Method::QueueBindOk));
                self.request(env, request, Some(subject), step)
            }
            Method::QueueUnbind { queue, exchange, routing_key, arguments } => {
                let (destination, key) = self.binding(queue, routing_key)?;
                let source = named_exchange(exchange)?;
                let subject = Subject::queue(&destination);
                let (kind, arguments) = (DestinationKind::Queue, decoded(arguments)?);
                let request = Request::Unbind { vhost, source, destination, kind, key, arguments };
                self.request(env, request, Some(subject), Step::Ok(Some(Method::QueueUnbindOk)))
            }
            other => unreachable!("{} is not of class queue", other.name()),
        }
    }

    fn declare_queue(&mut self, env: &mut Env<'_>, method: Method<'_>) -> Result<Flow, Exception> {
        let Method::QueueDeclare { queue, passive, durable, exclusive, auto_delete, no_wait, arguments } =
            method
        else {
            unreachable!("{} is not queue.declare", method.name());
        };
        if is_reply_queue(queue) {
            let method = Method::QueueDeclareOk { queue, message_count: 0, consumer_count: 1 };
            return self.reply_unless(no_wait, env, method);
        }
        let name = Name::from(queue);
        if passive && name.is_empty() {
            return Err(Exception::refused(&Refusal::NoQueue(name), &env.link.vhost_name, None));
        }
        let subject = Subject::queue(&name);
        let options = if passive {
            QueueOptions::default()
        } else {
            let flags = QueueOptions { durable, exclusive, auto_delete, ..QueueOptions::default() };
            let about = subject.in_vhost(&env.link.vhost_name);
            arguments::queue_options(decoded(arguments)?, flags, &about)?
        };
        let request =
            Request::DeclareQueue { vhost: env.link.vhost, name, passive, options: Box::new(options) };
        self.request(env, request, Some(subject), Step::QueueDeclared { no_wait })
    }

    /// Queue and key of a binding: the last declared queue, and its name as the key, where both are empty.
    fn binding(&self, queue: &[u8], routing_key: &[u8]) -> Result<(Name, Name), Exception> {
        let destination = self.queue_name(queue)?;
        let key = match (queue, routing_key) {
            ([], []) => destination.clone(),
            _ => Name::from(routing_key),
        };
        Ok((destination, key))
    }
}

/// The name of an exchange other than the default one, which clients cannot declare, delete or bind.
fn named_exchange(name: &[u8]) -> Result<Name, Exception> {
    if name.is_empty() {
        return Err(Exception::new(code::ACCESS_REFUSED, "operation not permitted on the default exchange"));
    }
    Ok(Name::from(name))
}
