"""Routing: sends a line under its severity. Usage: emit_log_direct.py SEVERITY TEXT…"""

import os
import sys

import pika

severity, line = sys.argv[1], " ".join(sys.argv[2:])
with pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost"))) as connection:
    channel = connection.channel()
    channel.exchange_declare("direct_logs", "direct")
    channel.basic_publish("direct_logs", severity, line.encode())
    print(f"sent {severity}: {line!r}")
