"""What RabbitMQ's users rely on beyond the tutorials, seen through pika."""

import threading
import time

import pika
import pytest
from pika.exceptions import AMQPError, ChannelClosedByBroker, ProbableAuthenticationError

WAIT_S = 5


def get(channel, queue, wait_s=WAIT_S):
    """The next message of a queue, waiting for it."""
    deadline = time.monotonic() + wait_s
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is not None or time.monotonic() > deadline:
            return method, properties, body
        time.sleep(0.01)


def declare(channel, name, **arguments):
    """A queue with arguments whose names are given with underscores and without `x-`."""
    arguments = {"x-" + key.replace("_", "-"): value for key, value in arguments.items()}
    return channel.queue_declare(name, auto_delete=False, exclusive=True, arguments=arguments).method.queue


def consume(channel, queue, **options):
    """Starts a consumer and returns the list that it fills, and its tag."""
    got = []
    tag = channel.basic_consume(queue, lambda ch, method, properties, body: got.append((method, properties, body)), **options)
    return got, tag


def wait(connection, until, wait_s=WAIT_S):
    """Lets a connection work until something is so."""
    deadline = time.monotonic() + wait_s
    while not until():
        assert time.monotonic() < deadline, "timed out"
        connection.process_data_events(time_limit=0.05)


class TestConnection:
    def test_wrong_password(self, broker):
        with pytest.raises(ProbableAuthenticationError) as refused:
            broker.connect(password="wrong")
        assert "ACCESS_REFUSED" in str(refused.value)

    def test_unknown_virtual_host(self, broker):
        with pytest.raises(AMQPError) as refused:
            broker.connect(virtual_host="nowhere")
        assert "nowhere" in str(refused.value)

    def test_capabilities(self, connection):
        properties = connection._impl.server_properties
        for capability in (
            "publisher_confirms",
            "exchange_exchange_bindings",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "consumer_priorities",
            "authentication_failure_close",
            "per_consumer_qos",
            "direct_reply_to",
        ):
            assert properties["capabilities"][capability] is True

    def test_heartbeats_keep_an_idle_connection(self, broker):
        with broker.connect(heartbeat=1) as connection:
            connection.sleep(3.5)
            assert connection.channel().is_open

    def test_update_secret(self, connection):
        connection.update_secret("renewed", "because")
        assert connection.is_open


class TestErrors:
    """An error closes the channel with RabbitMQ's code and wording; the connection lives on."""

    @pytest.mark.parametrize(
        ("do", "code", "text"),
        [
            (lambda ch: ch.basic_get("missing"), 404, "NOT_FOUND - no queue 'missing' in vhost '/'"),
            (lambda ch: ch.queue_declare("missing", passive=True), 404, "no queue 'missing' in vhost '/'"),
            (lambda ch: ch.exchange_declare("missing", passive=True), 404, "no exchange 'missing' in vhost '/'"),
            (lambda ch: ch.queue_declare("amq.mine"), 403, "ACCESS_REFUSED"),
            (lambda ch: ch.exchange_declare("amq.direct", "fanout"), 406, "PRECONDITION_FAILED - inequivalent arg 'type'"),
            (lambda ch: ch.exchange_declare("new", "unheard-of"), 406, "unknown exchange type 'unheard-of'"),
            (lambda ch: ch.basic_ack(99) or ch.queue_declare("", exclusive=True), 406, "unknown delivery tag 99"),
        ],
        ids=["get", "queue", "exchange", "reserved", "inequivalent", "type", "tag"],
    )
    def test_channel_error(self, connection, do, code, text):
        channel = connection.channel()
        with pytest.raises(ChannelClosedByBroker) as closed:
            do(channel)
        assert closed.value.reply_code == code
        assert text in closed.value.reply_text
        assert connection.channel().is_open

    def test_publish_to_a_missing_exchange(self, connection):
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(ChannelClosedByBroker) as closed:
            channel.basic_publish("missing", "", b"")
        assert closed.value.reply_code == 404

    def test_exclusive_queue_of_another_connection(self, broker, channel):
        queue = channel.queue_declare("", exclusive=True).method.queue
        with broker.connect() as other, pytest.raises(ChannelClosedByBroker) as closed:
            other.channel().queue_declare(queue, passive=True)
        assert closed.value.reply_code == 405
        assert "RESOURCE_LOCKED" in closed.value.reply_text


class TestDelivery:
    def test_properties_and_large_body_come_back_unchanged(self, channel):
        queue = declare(channel, "")
        properties = pika.BasicProperties(
            content_type="text/plain",
            content_encoding="utf-8",
            headers={"text": "ä", "int": 1, "big": 2**40, "yes": True, "none": None, "list": [1, "x"], "map": {"k": [{}]}},
            delivery_mode=2,
            priority=3,
            correlation_id="c",
            reply_to="r",
            expiration="60000",
            message_id="m",
            timestamp=1700000000,
            type="t",
            user_id="guest",
            app_id="a",
        )
        for size in (0, 1, 131064, 131065, 3_000_000):
            body = bytes(i * 31 % 251 for i in range(256)) * (size // 256 + 1)
            channel.basic_publish("", queue, body[:size], properties)
            _, came, got = get(channel, queue)
            assert got == body[:size]
            assert came == properties

    def test_order_and_counts(self, connection, channel):
        queue = declare(channel, "")
        for n in range(1000):
            channel.basic_publish("", queue, str(n).encode())
        assert channel.queue_declare(queue, passive=True).method.message_count == 1000
        got, _ = consume(channel, queue, auto_ack=True)
        wait(connection, lambda: len(got) == 1000)
        assert [int(body) for _, _, body in got] == list(range(1000))

    def test_prefetch_holds_back(self, connection, channel):
        queue = declare(channel, "")
        channel.basic_qos(prefetch_count=3)
        got, _ = consume(channel, queue)
        for n in range(10):
            channel.basic_publish("", queue, str(n).encode())
        connection.sleep(0.2)
        assert len(got) == 3
        channel.basic_ack(got[-1][0].delivery_tag, multiple=True)
        wait(connection, lambda: len(got) == 6)

    def test_nack_requeues_in_place(self, connection, channel):
        queue = declare(channel, "")
        for n in range(3):
            channel.basic_publish("", queue, str(n).encode())
        taken = [channel.basic_get(queue) for _ in range(3)]
        channel.basic_nack(taken[-1][0].delivery_tag, multiple=True, requeue=True)
        again = [channel.basic_get(queue) for _ in range(3)]
        assert [body for _, _, body in again] == [b"0", b"1", b"2"]
        assert all(method.redelivered for method, _, _ in again)

    def test_recover(self, connection, channel):
        queue = declare(channel, "")
        channel.basic_publish("", queue, b"x")
        assert channel.basic_get(queue)[2] == b"x"
        channel.basic_recover(requeue=True)
        method, _, _ = channel.basic_get(queue)
        assert method.redelivered

    def test_mandatory_returns(self, connection, channel):
        channel.confirm_delivery()
        with pytest.raises(pika.exceptions.UnroutableError) as unroutable:
            channel.basic_publish("amq.direct", "nobody", b"back", mandatory=True)
        [returned] = unroutable.value.messages
        assert returned.body == b"back"
        assert (returned.method.reply_code, returned.method.reply_text) == (312, "NO_ROUTE")

    def test_transaction(self, channel):
        queue = declare(channel, "")
        channel.tx_select()
        channel.basic_publish("", queue, b"dropped")
        channel.tx_rollback()
        channel.basic_publish("", queue, b"kept")
        assert channel.queue_declare(queue, passive=True).method.message_count == 0
        channel.tx_commit()
        assert get(channel, queue)[2] == b"kept"
        assert channel.basic_get(queue)[0] is None

    def test_unacknowledged_messages_return_with_the_connection(self, broker, channel, name):
        channel.queue_declare(name)
        try:
            channel.basic_publish("", name, b"x")
            with broker.connect() as other:
                assert get_unacknowledged(other.channel(), name)
            method, _, body = get(channel, name)
            assert body == b"x" and method.redelivered
        finally:
            channel.queue_delete(name)


def get_unacknowledged(channel, queue):
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if channel.basic_get(queue)[0]:
            return True
    return False


class TestQueues:
    def test_message_ttl(self, connection, channel):
        queue = declare(channel, "", message_ttl=100)
        channel.basic_publish("", queue, b"x")
        connection.sleep(0.4)
        assert channel.basic_get(queue)[0] is None

    def test_expiration_dead_letters_with_history(self, channel, name):
        dead = declare(channel, "")
        channel.exchange_declare(name, "fanout", auto_delete=True)
        channel.queue_bind(dead, name)
        queue = declare(channel, "", dead_letter_exchange=name, dead_letter_routing_key="grave")
        channel.basic_publish("", queue, b"x", pika.BasicProperties(expiration="50", headers={"mine": 1}))
        method, properties, body = get(channel, dead)
        assert (body, method.routing_key, method.exchange) == (b"x", "grave", name)
        assert properties.expiration is None
        headers = properties.headers
        assert headers["mine"] == 1
        assert (headers["x-first-death-queue"], headers["x-first-death-reason"]) == (queue, "expired")
        [death] = headers["x-death"]
        assert (death["queue"], death["reason"], death["count"]) == (queue, "expired", 1)
        assert death["routing-keys"] == [queue] and death["original-expiration"] == "50"

    def test_rejected_is_dead_lettered(self, channel):
        dead = declare(channel, "")
        queue = declare(channel, "", dead_letter_exchange="", dead_letter_routing_key=dead)
        channel.basic_publish("", queue, b"x")
        method, _, _ = channel.basic_get(queue)
        channel.basic_reject(method.delivery_tag, requeue=False)
        _, properties, _ = get(channel, dead)
        assert properties.headers["x-death"][0]["reason"] == "rejected"

    def test_max_length_drops_the_oldest(self, channel):
        queue = declare(channel, "", max_length=2)
        for n in range(4):
            channel.basic_publish("", queue, str(n).encode())
        assert [get(channel, queue, 1)[2] for _ in range(2)] == [b"2", b"3"]
        assert channel.basic_get(queue)[0] is None

    def test_reject_publish_is_a_negative_confirm(self, channel):
        queue = declare(channel, "", max_length=1, overflow="reject-publish")
        channel.confirm_delivery()
        channel.basic_publish("", queue, b"0")
        with pytest.raises(pika.exceptions.NackError):
            channel.basic_publish("", queue, b"1")

    def test_priority(self, channel):
        queue = declare(channel, "", max_priority=5)
        for priority in (1, 5, 3, 9, 0):
            channel.basic_publish("", queue, str(priority).encode(), pika.BasicProperties(priority=priority))
        assert [get(channel, queue)[2] for _ in range(5)] == [b"5", b"9", b"3", b"1", b"0"]

    def test_expires(self, connection, channel, name):
        channel.queue_declare(name, arguments={"x-expires": 100})
        connection.sleep(0.5)
        with pytest.raises(ChannelClosedByBroker) as closed:
            channel.queue_declare(name, passive=True)
        assert closed.value.reply_code == 404

    def test_auto_delete(self, connection, channel, name):
        channel.queue_declare(name, auto_delete=True)
        _, tag = consume(channel, name)
        channel.basic_cancel(tag)
        with pytest.raises(ChannelClosedByBroker):
            channel.queue_declare(name, passive=True)

    def test_purge_and_conditional_delete(self, connection, channel, name):
        channel.queue_declare(name)
        channel.basic_publish("", name, b"x")
        refused = connection.channel()
        with pytest.raises(ChannelClosedByBroker) as closed:
            refused.queue_delete(name, if_empty=True)
        assert closed.value.reply_code == 406
        assert channel.queue_purge(name).method.message_count == 1
        assert channel.queue_delete(name, if_empty=True).method.message_count == 0


class TestConsumers:
    def test_cancel_notification(self, broker, connection, channel, name):
        channel.queue_declare(name)
        cancelled = []
        channel.add_on_cancel_callback(cancelled.append)
        _, tag = consume(channel, name)
        connection.channel().queue_delete(name)
        wait(connection, lambda: cancelled)
        assert cancelled[0].method.consumer_tag == tag

    def test_single_active_consumer(self, connection, channel):
        queue = declare(channel, "", single_active_consumer=True)
        first, tag = consume(channel, queue, auto_ack=True)
        second, _ = consume(channel, queue, auto_ack=True)
        for n in range(4):
            channel.basic_publish("", queue, str(n).encode())
        wait(connection, lambda: len(first) == 4)
        channel.basic_cancel(tag)
        channel.basic_publish("", queue, b"4")
        wait(connection, lambda: len(second) == 1)
        assert len(first) == 4

    def test_exclusive_consumer(self, connection, channel):
        queue = declare(channel, "")
        consume(channel, queue, exclusive=True)
        with pytest.raises(ChannelClosedByBroker) as closed:
            consume(connection.channel(), queue)
        assert closed.value.reply_code == 403

    def test_consumer_priority(self, connection, channel):
        queue = declare(channel, "")
        low, _ = consume(channel, queue, auto_ack=True)
        high, _ = consume(channel, queue, auto_ack=True, arguments={"x-priority": 10})
        for n in range(5):
            channel.basic_publish("", queue, b"")
        wait(connection, lambda: len(low) + len(high) == 5)
        assert (len(low), len(high)) == (0, 5)

    def test_round_robin(self, connection, channel):
        queue = declare(channel, "")
        shares = [consume(channel, queue, auto_ack=True)[0] for _ in range(3)]
        for n in range(30):
            channel.basic_publish("", queue, b"")
        wait(connection, lambda: sum(map(len, shares)) == 30)
        assert [len(share) for share in shares] == [10, 10, 10]

    def test_direct_reply_to(self, broker, connection, channel):
        requests = declare(channel, "")

        def answer():
            with broker.connect() as served:
                ch = served.channel()
                _, properties, body = get(ch, queue)
                ch.basic_publish("", properties.reply_to, body.upper(), pika.BasicProperties(correlation_id="1"))

        queue = "rpc-" + requests
        channel.queue_declare(queue, auto_delete=False)
        try:
            replies, _ = consume(channel, "amq.rabbitmq.reply-to", auto_ack=True)
            channel.basic_publish("", queue, b"ping", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to"))
            server = threading.Thread(target=answer)
            server.start()
            wait(connection, lambda: replies)
            server.join()
            assert replies[0][2] == b"PING"
        finally:
            channel.queue_delete(queue)


class TestRouting:
    @pytest.fixture(autouse=True)
    def confirmed(self, channel):
        """Every publish waits until it has been routed."""
        channel.confirm_delivery()

    def route(self, channel, exchange, key, headers=None):
        channel.basic_publish(exchange, key, b"x", pika.BasicProperties(headers=headers))

    def test_headers_exchange(self, channel, name):
        channel.exchange_declare(name, "headers", auto_delete=True)
        both, either = declare(channel, ""), declare(channel, "")
        channel.queue_bind(both, name, arguments={"x-match": "all", "a": 1, "b": "2"})
        channel.queue_bind(either, name, arguments={"x-match": "any", "a": 1, "b": "2"})
        self.route(channel, name, "", {"a": 1, "b": "2"})
        self.route(channel, name, "", {"a": 1, "b": "3"})
        self.route(channel, name, "", {"c": 1})
        assert channel.queue_declare(both, passive=True).method.message_count == 1
        assert channel.queue_declare(either, passive=True).method.message_count == 2

    def test_exchange_to_exchange_delivers_once(self, channel, name):
        inner = name + "-inner"
        channel.exchange_declare(inner, "topic", auto_delete=True)
        channel.exchange_declare(name, "fanout", auto_delete=True)
        queue = declare(channel, "")
        channel.queue_bind(queue, inner, "a.#")
        channel.queue_bind(queue, inner, "#.c")
        channel.exchange_bind(inner, name)
        self.route(channel, name, "a.b.c")
        self.route(channel, name, "b")
        assert channel.queue_declare(queue, passive=True).method.message_count == 1

    def test_alternate_exchange(self, channel, name):
        channel.exchange_declare(name + "-rest", "fanout", auto_delete=True)
        channel.exchange_declare(name, "direct", auto_delete=True, arguments={"alternate-exchange": name + "-rest"})
        known, rest = declare(channel, ""), declare(channel, "")
        channel.queue_bind(known, name, "known")
        channel.queue_bind(rest, name + "-rest")
        self.route(channel, name, "known")
        self.route(channel, name, "other")
        assert get(channel, known)[0].routing_key == "known"
        assert get(channel, rest)[0].routing_key == "other"

    def test_sender_selected_distribution(self, channel):
        queues = [declare(channel, "") for _ in range(3)]
        self.route(channel, "", queues[0], {"CC": [queues[1]], "BCC": [queues[2]]})
        for queue in queues:
            _, properties, body = get(channel, queue)
            assert body == b"x"
            assert "BCC" not in properties.headers and properties.headers["CC"] == [queues[1]]

    def test_validated_user_id(self, connection):
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(ChannelClosedByBroker) as closed:
            channel.basic_publish("", "x", b"", pika.BasicProperties(user_id="somebody"))
        assert closed.value.reply_code == 406

    def test_consistent_hash(self, channel, name):
        channel.exchange_declare(name, "x-consistent-hash", auto_delete=True)
        queues = [declare(channel, "") for _ in range(2)]
        for queue in queues:
            channel.queue_bind(queue, name, "10")
        for n in range(200):
            self.route(channel, name, f"key-{n % 50}")
        counts = [channel.queue_declare(queue, passive=True).method.message_count for queue in queues]
        assert sum(counts) == 200 and all(count > 20 and count % 4 == 0 for count in counts)

    def test_topic_with_hash_between_words(self, channel):
        queue = declare(channel, "")
        channel.queue_bind(queue, "amq.topic", "a.*.c.#")
        for key in ("a.b.c", "a.b.c.d.e", "a.c", "a.b.d"):
            self.route(channel, "amq.topic", key)
        assert [get(channel, queue)[0].routing_key for _ in range(2)] == ["a.b.c", "a.b.c.d.e"]
        assert channel.basic_get(queue)[0] is None

    def test_delayed_message_exchange(self, broker, connection, channel, name):
        if broker.is_foreign:
            pytest.skip("RabbitMQ needs a plugin for it that Debian does not have")
        channel.exchange_declare(name, "x-delayed-message", auto_delete=True, arguments={"x-delayed-type": "direct"})
        queue = declare(channel, "")
        channel.queue_bind(queue, name, "key")
        self.route(channel, name, "key", {"x-delay": 300})
        self.route(channel, name, "key", {"x-delay": 50})
        assert channel.basic_get(queue)[0] is None
        assert [abs(get(channel, queue)[1].headers["x-delay"]) for _ in range(2)] == [50, 300]
