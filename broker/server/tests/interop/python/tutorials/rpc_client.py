"""RPC: asks the server for Fibonacci numbers, through an exclusive reply queue. Usage: rpc_client.py N…"""

import os
import sys
import uuid

import pika


class Fibonacci:
    """A client that has one request under way at a time."""

    def __init__(self, url):
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.reply_queue = self.channel.queue_declare("", exclusive=True).method.queue
        self.channel.basic_consume(self.reply_queue, self.on_reply, auto_ack=True)

    def on_reply(self, channel, method, properties, body):
        if properties.correlation_id == self.asked:
            self.answer = int(body)

    def call(self, n):
        self.asked, self.answer = str(uuid.uuid4()), None
        properties = pika.BasicProperties(reply_to=self.reply_queue, correlation_id=self.asked)
        self.channel.basic_publish("", "rpc_queue", str(n).encode(), properties)
        while self.answer is None:
            self.connection.process_data_events(time_limit=5)
        return self.answer


client = Fibonacci(os.environ.get("AMQP_URL", "amqp://localhost"))
for n in sys.argv[1:]:
    print(f"fibonacci({n}) = {client.call(int(n))}")
client.connection.close()
