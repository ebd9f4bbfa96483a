"""Publisher confirms: one at a time with a blocking connection, then many under way with callbacks."""

import os
import time

import pika

URL = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost"))
COUNT = 500


def one_by_one():
    """Every publish waits for its confirm; one that no queue takes raises."""
    with pika.BlockingConnection(URL) as connection:
        channel = connection.channel()
        own = channel.queue_declare("", exclusive=True).method.queue
        channel.confirm_delivery()
        started = time.monotonic()
        for n in range(COUNT):
            channel.basic_publish("", own, str(n).encode(), mandatory=True)
        print(f"one by one: {COUNT} confirmed in {time.monotonic() - started:.2f} s")
        assert channel.queue_declare(own, passive=True).method.message_count == COUNT
        try:
            channel.basic_publish("", own + "-missing", b"", mandatory=True)
        except pika.exceptions.UnroutableError:
            print("one by one: unroutable noticed")


class Pipelined:
    """Publishes all at once and strikes out what is confirmed, one or several at a time."""

    def __init__(self):
        self.outstanding = {}
        self.connection = pika.SelectConnection(URL, on_open_callback=lambda c: c.channel(on_open_callback=self.opened))
        self.connection.ioloop.start()

    def opened(self, channel):
        self.channel = channel
        channel.queue_declare("", exclusive=True, callback=self.declared)

    def declared(self, frame):
        self.channel.confirm_delivery(self.on_confirm)
        for n in range(1, COUNT + 1):
            self.outstanding[n] = str(n).encode()
            self.channel.basic_publish("", frame.method.queue, self.outstanding[n])

    def on_confirm(self, frame):
        confirmed = frame.method
        assert isinstance(confirmed, pika.spec.Basic.Ack), confirmed
        tags = [n for n in self.outstanding if n <= confirmed.delivery_tag] if confirmed.multiple else [
            confirmed.delivery_tag
        ]
        for tag in tags:
            del self.outstanding[tag]
        if not self.outstanding:
            print(f"pipelined: {COUNT} confirmed")
            self.connection.add_on_close_callback(lambda connection, reason: connection.ioloop.stop())
            self.connection.close()


one_by_one()
Pipelined()
