//! Frames, methods, field tables and content properties of AMQP 0-9-1 (§4.2, with RabbitMQ's errata).
