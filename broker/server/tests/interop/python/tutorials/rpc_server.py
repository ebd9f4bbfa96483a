"""RPC: answers each request with the Fibonacci number that it asks for."""

import os

import pika


def fibonacci(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def on_request(channel, method, properties, body):
    answer = str(fibonacci(int(body))).encode()
    same = pika.BasicProperties(correlation_id=properties.correlation_id)
    channel.basic_publish("", properties.reply_to, answer, same)
    channel.basic_ack(method.delivery_tag)


connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost")))
channel = connection.channel()
channel.queue_declare("rpc_queue")
channel.basic_qos(prefetch_count=1)
channel.basic_consume("rpc_queue", on_request)
print("waiting for requests")
try:
    channel.start_consuming()
except KeyboardInterrupt:
    connection.close()
