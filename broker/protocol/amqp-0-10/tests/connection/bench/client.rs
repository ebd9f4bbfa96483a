//! What clients say: controls, commands and transfers, and what they expect in return.

use super::*;

impl World {
    /// Sends a control and lets the world run.
    pub fn control<'a>(&mut self, client: Client, channel: u16, control: impl Into<Control<'a>>) {
        let mut bytes = Vec::new();
        control.into().encode_frames(channel, 4096, &mut bytes);
        self.send_bytes(client, &bytes);
    }

    /// Sends a command that asks for its completion, and lets the world run.
    pub fn send<'a>(&mut self, client: Client, channel: u16, command: impl Into<Command<'a>>) -> SequenceNo {
        let mut bytes = Vec::new();
        command.into().encode_frames(SessionHeader { sync: true }, channel, 4096, &mut bytes);
        let id = self.number(client, channel);
        self.send_bytes(client, &bytes);
        id
    }

    /// Sends a command, which is carried out.
    pub fn call<'a>(&mut self, client: Client, channel: u16, command: impl Into<Command<'a>>) -> SequenceNo {
        let command = command.into();
        let id = self.send(client, channel, command);
        let setup = self.setup;
        let book = self.book(client, channel);
        assert_eq!(book.exception, None, "{setup:?}: {command:?}");
        assert!(book.is_complete(id), "{setup:?}: {command:?} is not complete");
        id
    }

    /// Sends a command that has a result.
    pub fn query<'a>(&mut self, client: Client, channel: u16, command: impl Into<Command<'a>>) -> Vec<u8> {
        let id = self.call(client, channel, command);
        self.book(client, channel).results.remove(&id.0).expect("no result")
    }

    /// Sends a command that ends the session, and attaches another one.
    pub fn refused<'a>(
        &mut self,
        client: Client,
        channel: u16,
        command: impl Into<Command<'a>>,
    ) -> (ErrorCode, String) {
        let command = command.into();
        let id = self.send(client, channel, command);
        let Some((code, text, of)) = self.book(client, channel).exception.take() else {
            panic!("{:?}: {command:?} is not refused", self.setup);
        };
        assert_eq!(of, id, "{command:?}");
        self.end_failed_session(client, channel);
        (code, text)
    }

    /// Answers the broker's `session.detach`, and attaches another session.
    pub fn end_failed_session(&mut self, client: Client, channel: u16) {
        let detach = self.take_control(client).expect("no session.detach");
        let Control::SessionDetach(SessionDetach { name }) = Control::decode(&detach).unwrap() else {
            panic!("no session.detach but {:?}", Control::decode(&detach))
        };
        self.control(client, channel, SessionDetached { name, code: Some(DetachCode::Normal) });
        let name = format!("session-{}-again-{}", client.0, self.now_ns);
        self.now_ns += 1;
        self.attach(client, channel, &name);
    }

    /// The id of the next command.
    fn number(&mut self, client: Client, channel: u16) -> SequenceNo {
        let book = self.book(client, channel);
        let id = book.next;
        book.next = id.next();
        id
    }

    pub fn book(&mut self, client: Client, channel: u16) -> &mut Book {
        self.slots[client.0].books.entry(channel).or_default()
    }

    pub fn send_bytes(&mut self, client: Client, bytes: &[u8]) {
        self.slots[client.0].input.extend(bytes);
        self.run();
    }

    /// Publishes to an exchange, without asking for the completion.
    pub fn publish(
        &mut self,
        client: Client,
        channel: u16,
        exchange: &str,
        key: &str,
        body: &str,
    ) -> SequenceNo {
        let delivery = DeliveryProperties { routing_key: Some(key.as_bytes()), ..Default::default() };
        self.publish_with(client, channel, exchange, delivery, Default::default(), body)
    }

    pub fn publish_with(
        &mut self,
        client: Client,
        channel: u16,
        exchange: &str,
        delivery: DeliveryProperties<'_>,
        message: MessageProperties<'_>,
        body: &str,
    ) -> SequenceNo {
        let mut header = Vec::new();
        delivery.encode(&mut header);
        message.encode(&mut header);
        let transfer = Transfer {
            destination: exchange.as_bytes(),
            accept_mode: AcceptMode::None,
            header: &header,
            body: body.as_bytes(),
            ..Default::default()
        };
        self.transfer(client, channel, &transfer)
    }

    pub fn transfer(&mut self, client: Client, channel: u16, transfer: &Transfer<'_>) -> SequenceNo {
        let mut bytes = Vec::new();
        transfer::encode(transfer, channel, 4096, &mut bytes);
        let id = self.number(client, channel);
        self.send_bytes(client, &bytes);
        id
    }

    /// Everything sent so far is complete.
    pub fn sync(&mut self, client: Client, channel: u16) {
        self.call(client, channel, ExecutionSync {});
    }

    /// Declares a queue on the setup's home.
    pub fn declare(&mut self, client: Client, channel: u16, queue: &str) {
        self.declare_with(
            client,
            channel,
            QueueDeclare { queue: Some(queue.as_bytes()), ..Default::default() },
            &[],
        );
    }

    pub fn declare_with(
        &mut self,
        client: Client,
        channel: u16,
        declare: QueueDeclare<'_>,
        arguments: &[(&str, Value<'_>)],
    ) {
        let map = self.queue_arguments(arguments);
        self.call(client, channel, QueueDeclare { arguments: Some(MapRef::new(&map)), ..declare });
    }

    /// Arguments that put a queue on the setup's home.
    pub fn queue_arguments(&self, arguments: &[(&str, Value<'_>)]) -> Vec<u8> {
        let home = ("x-fulmar-shard", Value::Int32(self.setup.home.into()));
        let mut map = Vec::new();
        let all = arguments.iter().chain([&home]).map(|(name, value)| (name.as_bytes(), *value));
        encode_map(all, &mut map);
        map
    }

    /// Messages ready and consumers.
    pub fn counts(&mut self, client: Client, channel: u16, queue: &str) -> (u32, u32) {
        let result = self.query(client, channel, QueueQuery { queue: Some(queue.as_bytes()) });
        let Struct::QueueQueryResult(result) = decode(&result) else { panic!("another result") };
        assert_eq!(result.queue, Some(queue.as_bytes()), "no queue '{queue}'");
        (result.message_count.unwrap(), result.subscriber_count.unwrap())
    }

    /// Subscribes with as much credit as wanted; without any with `None`.
    pub fn subscribe(&mut self, client: Client, channel: u16, queue: &str, destination: &str) {
        self.subscribe_with(client, channel, queue, destination, MessageSubscribe::default());
        self.credit(client, channel, destination, u32::MAX, u32::MAX);
    }

    pub fn subscribe_with(
        &mut self,
        client: Client,
        channel: u16,
        queue: &str,
        destination: &str,
        subscribe: MessageSubscribe<'_>,
    ) {
        let (queue, destination) = (Some(queue.as_bytes()), Some(destination.as_bytes()));
        self.call(client, channel, MessageSubscribe { queue, destination, ..subscribe });
    }

    pub fn credit(&mut self, client: Client, channel: u16, destination: &str, messages: u32, bytes: u32) {
        let destination = Some(destination.as_bytes());
        for (unit, value) in [(CreditUnit::Message, messages), (CreditUnit::Byte, bytes)] {
            if value > 0 {
                self.call(client, channel, MessageFlow { destination, unit: Some(unit), value: Some(value) });
            }
        }
    }

    pub fn flow_mode(&mut self, client: Client, channel: u16, destination: &str, mode: FlowMode) {
        let destination = Some(destination.as_bytes());
        self.call(client, channel, MessageSetFlowMode { destination, flow_mode: Some(mode) });
    }

    /// The bodies of all messages received.
    pub fn bodies(&mut self, client: Client, channel: u16) -> Vec<String> {
        self.book(client, channel).messages.drain(..).map(|message| message.text()).collect()
    }

    pub fn message(&mut self, client: Client, channel: u16) -> Message {
        let setup = self.setup;
        let message = self.book(client, channel).messages.pop_front();
        message.unwrap_or_else(|| panic!("{setup:?}: no message"))
    }

    pub fn accept(&mut self, client: Client, channel: u16, first: SequenceNo, last: SequenceNo) {
        let set = set(&[(first, last)]);
        self.call(client, channel, MessageAccept { transfers: Some(SequenceSet::new(&set).unwrap()) });
    }

    /// The client is done with these commands of the broker's.
    pub fn complete(&mut self, client: Client, channel: u16, first: SequenceNo, last: SequenceNo) {
        let set = set(&[(first, last)]);
        let commands = Some(SequenceSet::new(&set).unwrap());
        self.control(client, channel, SessionCompleted { commands, timely_reply: false });
    }

    pub fn take_control(&mut self, client: Client) -> Option<Vec<u8>> {
        self.slots[client.0].controls.pop_front().map(|(_, payload)| payload)
    }

    /// A control of that name has come; its payload.
    pub fn expect_control(&mut self, client: Client, name: &str) -> Vec<u8> {
        let setup = self.setup;
        let payload = self.take_control(client).unwrap_or_else(|| panic!("{setup:?}: no {name}"));
        let control = Control::decode(&payload).unwrap();
        assert_eq!(control.name(), name, "{setup:?}: {control:?}");
        payload
    }

    /// Nothing was sent to the client.
    pub fn expect_nothing(&mut self, client: Client) {
        let controls = &self.slots[client.0].controls;
        let named: Vec<_> = controls.iter().map(|(_, c)| Control::decode(c).unwrap().name()).collect();
        assert!(named.is_empty(), "{:?}: {named:?}", self.setup);
    }

    /// The connection is closed by the broker; the client answers. Code and text.
    pub fn expect_close(&mut self, client: Client) -> (CloseCode, String) {
        let payload = self.expect_control(client, "connection.close");
        let Control::ConnectionClose(close) = Control::decode(&payload).unwrap() else { unreachable!() };
        let text = String::from_utf8_lossy(close.reply_text.unwrap_or_default()).into_owned();
        self.control(client, 0, ConnectionCloseOk {});
        assert!(self.closed(client).is_some(), "the socket is not closed");
        (close.reply_code.unwrap(), text)
    }
}
