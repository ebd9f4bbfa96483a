"""The little of AMQP 0-10 that a login takes, on a plain socket or within a security layer."""

import socket
import struct

from conftest import WAIT_S

CONNECTION, SESSION = 1, 2
START, START_OK, SECURE, SECURE_OK, TUNE, TUNE_OK, OPEN, OPEN_OK, HEARTBEAT, CLOSE = 1, 2, 3, 4, 5, 6, 7, 8, 10, 11
ATTACH, ATTACHED = 1, 2
WHOLE = 0x0F
HEADER_BYTES = 12


def short(text):
    return struct.pack("!B", len(text)) + text


def control(channel, of_class, code, flags, fields=b""):
    """A control in a frame of its own."""
    body = struct.pack("!BBH", of_class, code, flags << 8) + fields
    return struct.pack("!BBHBBH4x", WHOLE, 0, HEADER_BYTES + len(body), 0, 0, channel) + body


class Peer:
    """The client's side of a connection."""

    def __init__(self, port, source="127.0.0.1"):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S, source_address=(source, 0))
        self.layer = None
        self.bytes = b""
        self.socket.sendall(b"AMQP\1\1\0\x0a")
        assert self._take(8) == b"AMQP\1\1\0\x0a"
        code, fields = self.receive()
        assert code == START
        self.mechanisms = self._mechanisms(fields)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    @staticmethod
    def _mechanisms(fields):
        """Behind the properties: an array of str16."""
        properties = struct.unpack_from("!I", fields, 2)[0]
        at = 2 + 4 + properties + 4
        kind, count = struct.unpack_from("!BI", fields, at)
        assert kind == 0x95
        at += 5
        names = []
        for _ in range(count):
            length = struct.unpack_from("!H", fields, at)[0]
            names.append(fields[at + 2 : at + 2 + length].decode())
            at += 2 + length
        return names

    def _more(self):
        data = self.socket.recv(65536)
        assert data, "the broker closed the connection"
        self.bytes += self.layer.decode(data) if self.layer else data

    def _take(self, count):
        while len(self.bytes) < count:
            self._more()
        taken, self.bytes = self.bytes[:count], self.bytes[count:]
        return taken

    def frame(self):
        """Class, code, flags with fields, and channel of the next control."""
        flags, _kind, size, channel = struct.unpack("!BBHxxH4x", self._take(HEADER_BYTES))
        body = self._take(size - HEADER_BYTES)
        return body[0], body[1], body[2:], channel

    def receive(self):
        of_class, code, fields, _channel = self.frame()
        assert of_class == CONNECTION
        return code, fields

    def send(self, data, piece_bytes=None):
        """Sends it as a whole, or in pieces."""
        if self.layer:
            # It takes so much at once.
            data = b"".join(self.layer.encode(data[at : at + 16384]) for at in range(0, len(data), 16384))
        for at in range(0, len(data), piece_bytes or len(data)):
            self.socket.sendall(data[at : at + (piece_bytes or len(data))])

    def log_in(self, mechanism, client):
        """All rounds; what the broker says in the end."""
        first = client.start(mechanism)
        flags, fields = 0b1010, short(mechanism.encode())
        if first is not None:
            flags, fields = 0b1110, fields + struct.pack("!I", len(first)) + first
        self.send(control(0, CONNECTION, START_OK, flags, fields + short(b"en_US")))
        for _ in range(10):
            code, fields = self.receive()
            if code != SECURE:
                return code
            response = client.step(fields[6:])
            self.send(control(0, CONNECTION, SECURE_OK, 1, struct.pack("!I", len(response)) + response))
        raise AssertionError("the login comes to no end")

    def open(self, client):
        """After tuning; from here on within the client's security layer, if there is one."""
        self.send(control(0, CONNECTION, TUNE_OK, 0b111, struct.pack("!HHH", 1000, 65535, 0)))
        self.send(control(0, CONNECTION, OPEN, 1, short(b"/")))
        code, _fields = self.receive()
        assert code == OPEN_OK
        assert not self.bytes
        if client.strength:
            self.layer = client
