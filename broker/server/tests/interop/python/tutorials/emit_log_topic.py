"""Topics: sends a line under a key of words. Usage: emit_log_topic.py KEY TEXT…"""

import os
import sys

import pika

key, line = sys.argv[1], " ".join(sys.argv[2:])
with pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost"))) as connection:
    channel = connection.channel()
    channel.exchange_declare("topic_logs", "topic")
    channel.basic_publish("topic_logs", key, line.encode())
    print(f"sent {key}: {line!r}")
