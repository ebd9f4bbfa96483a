"""Publish/subscribe: sends a line to everyone who listens now."""

import os
import sys

import pika

line = " ".join(sys.argv[1:]) or "info: all is well"
with pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost"))) as connection:
    channel = connection.channel()
    channel.exchange_declare("logs", "fanout")
    channel.basic_publish("logs", "", line.encode())
    print(f"sent {line!r}")
