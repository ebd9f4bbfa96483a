"""Topics: prints the lines whose key matches a pattern. Usage: receive_logs_topic.py PATTERN…"""

import os
import sys

import pika


def on_line(channel, method, properties, body):
    print(f"received {method.routing_key}: {body.decode()!r}")


connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost")))
channel = connection.channel()
channel.exchange_declare("topic_logs", "topic")
own = channel.queue_declare("", exclusive=True).method.queue
for pattern in sys.argv[1:]:
    channel.queue_bind(own, "topic_logs", pattern)
channel.basic_consume(own, on_line, auto_ack=True)
print(f"waiting on {own}")
try:
    channel.start_consuming()
except KeyboardInterrupt:
    connection.close()
