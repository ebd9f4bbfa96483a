"""Hello world: prints what comes to the queue `hello`, until interrupted."""

import os

import pika


def on_message(channel, method, properties, body):
    print(f"received {body.decode()!r}")


connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost")))
channel = connection.channel()
channel.queue_declare("hello")
channel.basic_consume("hello", on_message, auto_ack=True)
print("waiting for messages")
try:
    channel.start_consuming()
except KeyboardInterrupt:
    connection.close()
