"""Hello world: sends one message to the queue `hello`."""

import os

import pika

with pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost"))) as connection:
    channel = connection.channel()
    channel.queue_declare("hello")
    channel.basic_publish(exchange="", routing_key="hello", body=b"Hello World!")
    print("sent 'Hello World!'")
