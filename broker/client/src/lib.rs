//! Asynchronous client library for Fulmar and other AMQP brokers.
