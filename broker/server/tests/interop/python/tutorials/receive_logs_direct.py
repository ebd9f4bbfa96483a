"""Routing: prints the lines of the severities that are named. Usage: receive_logs_direct.py SEVERITY…"""

import os
import sys

import pika


def on_line(channel, method, properties, body):
    print(f"received {method.routing_key}: {body.decode()!r}")


connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost")))
channel = connection.channel()
channel.exchange_declare("direct_logs", "direct")
own = channel.queue_declare("", exclusive=True).method.queue
for severity in sys.argv[1:]:
    channel.queue_bind(own, "direct_logs", severity)
channel.basic_consume(own, on_line, auto_ack=True)
print(f"waiting on {own}")
try:
    channel.start_consuming()
except KeyboardInterrupt:
    connection.close()
