"""Work queue: takes one task at a time and acknowledges it when done. `--never` keeps the task unacknowledged."""

import os
import sys
import time

import pika

NEVER = "--never" in sys.argv


def on_task(channel, method, properties, body):
    print(f"working on {body.decode()!r}, redelivered {method.redelivered}")
    if NEVER:
        return
    time.sleep(0.05 * body.count(b"."))
    channel.basic_ack(method.delivery_tag)
    print("done")


connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost")))
channel = connection.channel()
channel.queue_declare("task_queue", durable=True)
channel.basic_qos(prefetch_count=1)
channel.basic_consume("task_queue", on_task)
print("waiting for tasks")
try:
    channel.start_consuming()
except KeyboardInterrupt:
    connection.close()
