"""Publish/subscribe: prints every line, through a queue of its own that goes with the connection."""

import os

import pika


def on_line(channel, method, properties, body):
    print(f"received {body.decode()!r}")


connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost")))
channel = connection.channel()
channel.exchange_declare("logs", "fanout")
own = channel.queue_declare("", exclusive=True).method.queue
channel.queue_bind(own, "logs")
channel.basic_consume(own, on_line, auto_ack=True)
print(f"waiting on {own}")
try:
    channel.start_consuming()
except KeyboardInterrupt:
    connection.close()
