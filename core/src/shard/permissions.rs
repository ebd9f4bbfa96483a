//! Asks whether the clients of this shard may do what they want to.

use super::Shard;
use super::publish::Selected;
use crate::permission::{Known, Permission};
use crate::{ConnectionId, MessageId, Refusal, Reply, Request, SessionId, VhostId};

impl Shard {
    /// From now on a connection may do what this allows. Without one it may do everything.
    pub fn set_permission(&mut self, id: ConnectionId, permission: Box<dyn Permission>) {
        if let Some(connection) = self.connections.get_mut(id.index, id.generation) {
            connection.permission = Some(permission);
        }
    }

    /// Takes what a connection may do away from it, for where it goes on.
    pub fn take_permission(&mut self, id: ConnectionId) -> Option<Box<dyn Permission>> {
        self.connections.get_mut(id.index, id.generation)?.permission.take()
    }

    /// From now on a connection may do what another of the same client may.
    pub fn share_permission(&mut self, from: ConnectionId, to: ConnectionId) {
        let another = self.permission(from).map(|permission| permission.another());
        if let Some(connection) = self.connections.get_mut(to.index, to.generation) {
            connection.permission = another;
        }
    }

    /// Rules have changed: whatever was allowed is asked for again.
    pub fn forget_permissions(&mut self) {
        self.sessions.values_mut().for_each(|session| session.last_route.forget());
    }

    /// Whether a connection may use a virtual host.
    ///
    /// # Errors
    /// [`Refusal::Denied`].
    pub fn may_open(&mut self, id: ConnectionId, vhost: &str) -> Result<(), Refusal> {
        self.permission(id).map_or(Ok(()), |permission| permission.open(vhost))
    }

    /// Carries out what a client asks for, if it may. `None`: the answer comes as
    /// [`Output::Reply`](super::Output::Reply), and the session waits until then.
    pub fn request(&mut self, id: SessionId, mut request: Request) -> Option<Result<Reply, Refusal>> {
        let connection = self.sessions.get(id.index, id.generation)?.connection;
        if self.permission(connection).is_some() {
            let known = self.known_of(&request);
            let permission = self.permission(connection)?;
            if let Err(refusal) = permission.request(&request, &known) {
                return Some(Err(refusal));
            }
            if let Request::DeclareQueue { passive: false, options, .. } = &mut request {
                options.account = permission.account();
            }
        }
        self.request_unasked(id, request)
    }

    /// Whether a session may publish a message that is complete; asked for each of its addresses.
    ///
    /// # Errors
    /// [`Refusal::Denied`].
    pub(super) fn may_publish(&mut self, id: SessionId, message: MessageId) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get(id.index, id.generation) else { return Ok(()) };
        let connection = session.connection;
        let Some(connection) = self.connections.get_mut(connection.index, connection.generation) else {
            return Ok(());
        };
        let Some(permission) = &mut connection.permission else { return Ok(()) };
        let view = self.store.view(message);
        permission.publish(view.exchange, view.routing_key)?;
        let selected = Selected::of(self.store.get(message));
        selected.keys().try_for_each(|key| permission.publish(view.exchange, key.as_bytes()))
    }

    fn permission(&mut self, id: ConnectionId) -> Option<&mut dyn Permission> {
        let connection = self.connections.get_mut(id.index, id.generation)?;
        connection.permission.as_deref_mut().map(|permission| permission as &mut dyn Permission)
    }

    /// What there is of what a request is about.
    fn known_of(&self, request: &Request) -> Known {
        let queue = |vhost: VhostId, name: &crate::Name| self.topology.queue(vhost, name.as_bytes()).cloned();
        let exchange = |vhost: VhostId, name: &crate::Name| {
            self.topology.exchange_entry(vhost, name.as_bytes()).cloned()
        };
        match request {
            Request::DeclareExchange { vhost, name, .. }
            | Request::DeleteExchange { vhost, name, .. }
            | Request::QueryExchange { vhost, name } => {
                Known { exchange: exchange(*vhost, name), ..Known::default() }
            }
            Request::DeclareQueue { vhost, name, .. }
            | Request::DeleteQueue { vhost, name, .. }
            | Request::PurgeQueue { vhost, name }
            | Request::QueryQueue { vhost, name }
            | Request::Subscribe { vhost, queue: name, .. }
            | Request::Get { vhost, queue: name, .. } => {
                Known { queue: queue(*vhost, name), ..Known::default() }
            }
            _ => Known::default(),
        }
    }
}
