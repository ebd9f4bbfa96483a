"""Work queue: puts a task on it. Each dot in the text stands for some work."""

import os
import sys

import pika

task = " ".join(sys.argv[1:]) or "task."
with pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost"))) as connection:
    channel = connection.channel()
    channel.queue_declare("task_queue", durable=True)
    persistent = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
    channel.basic_publish("", "task_queue", task.encode(), persistent)
    print(f"queued {task!r}")
