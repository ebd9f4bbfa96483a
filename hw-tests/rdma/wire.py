"""Reads captured RoCE packets: connections with their private data, and the messages on them. Judges nothing.

A capture is a file of tcpdump's with Ethernet frames of UDP port 4791. Packets that were sent again are counted and
left out; anything that is neither the connection manager's nor a reliable connection's is passed over.
"""

import dataclasses
import ipaddress
import struct

PORT = 4791
# Opcodes of reliable connections: what each packet is of its message, and whether immediate data comes before the payload.
FIRST, MIDDLE, LAST, ONLY = "first", "middle", "last", "only"
SENDS = {0: (FIRST, False), 1: (MIDDLE, False), 2: (LAST, False), 3: (LAST, True), 4: (ONLY, False), 5: (ONLY, True)}
WRITES = range(6, 12)
ACKNOWLEDGE = 17
DATAGRAM = 0x64
# The connection manager's messages, and where private data begins in each, after its 24 bytes of header.
REQUEST, REJECT, REPLY = 0x10, 0x12, 0x13
PRIVATE_DATA = {REQUEST: (140, 92), REJECT: (84, 148), REPLY: (36, 196)}
# What librdmacm puts before the private data of a request: versions, port and addresses.
ADDRESSES_BYTES = 36


@dataclasses.dataclass
class Message:
    """One send, put together from its packets."""

    at_s: float
    is_from_initiator: bool
    data: bytes
    immediate: int | None
    packets: int


@dataclasses.dataclass
class Connection:
    """What was asked for and answered, and what went over it, in the order of the capture."""

    initiator: tuple  # address, queue pair
    service: int
    asked: bytes
    retry_count: int = 0
    rnr_retry_count: int = 0
    first_sequence: int = 0
    acceptor: tuple | None = None
    answered: bytes | None = None
    rejected: tuple | None = None  # reason, private data
    messages: list = dataclasses.field(default_factory=list)
    again: int = 0
    not_ready: int = 0
    writes: int = 0

    @property
    def port(self):
        return self.service & 0xFFFF


def read(path):
    """All connections of a capture, in the order of their requests."""
    reader = _Reader()
    for at_s, frame in frames(path.read_bytes()):
        reader.frame(at_s, frame)
    return reader.connections


def frames(data):
    """The frames of a capture with their times; the last may have been cut off."""
    order = {b"\xd4\xc3\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">"}[data[:4]]
    at = 24
    while at + 16 <= len(data):
        seconds, micros, length, _ = struct.unpack_from(order + "IIII", data, at)
        frame = data[at + 16:at + 16 + length]
        if len(frame) == length:
            yield seconds + micros / 1e6, frame
        at += 16 + length


class _Reader:
    def __init__(self):
        self.connections = []
        self.requests = {}  # the initiator's address and communication id
        self.pairs = {}  # address and queue pair of a receiver: its connection, and whether the sender is the initiator
        self.partial = {}
        self.expected = {}

    def frame(self, at_s, frame):
        if frame[12:14] != b"\x08\x00" or frame[23] != 17:
            return
        header = 14 + (frame[14] & 15) * 4
        length = struct.unpack_from(">H", frame, 16)[0]
        sender, receiver = (str(ipaddress.ip_address(frame[at:at + 4])) for at in (26, 30))
        if struct.unpack_from(">H", frame, header + 2)[0] != PORT:
            return
        # The last 4 bytes are a checksum.
        packet = frame[header + 8:14 + length - 4]
        opcode, flags, pair, sequence = packet[0], packet[1], _u24(packet, 5), _u24(packet, 9)
        payload = packet[12:len(packet) - (flags >> 4 & 3)]
        if opcode == DATAGRAM and pair == 1:
            self.management(sender, receiver, payload[8:])
        elif (receiver, pair) in self.pairs:
            self.packet(at_s, (receiver, pair), opcode, sequence, payload)

    def management(self, sender, receiver, message):
        if message[1] != 7:
            return
        kind, body = struct.unpack_from(">H", message, 16)[0], message[24:]
        if kind not in PRIVATE_DATA:
            return
        own, other = body[0:4], body[4:8]
        start, length = PRIVATE_DATA[kind]
        private = body[start:start + length]
        if kind == REQUEST and (sender, own) not in self.requests:
            connection = Connection((sender, _u24(body, 32)), struct.unpack_from(">Q", body, 8)[0], private[ADDRESSES_BYTES:],
                                    body[47] & 7, body[50] & 7, _u24(body, 44))
            self.requests[sender, own] = connection
            self.connections.append(connection)
            self.pairs[connection.initiator] = (connection, False)
        elif kind == REPLY and (connection := self.requests.get((receiver, other))) and not connection.acceptor:
            connection.acceptor, connection.answered = (sender, _u24(body, 12)), private
            self.pairs[connection.acceptor] = (connection, True)
            # Request and reply say at which number the other side is to begin.
            self.expected[connection.initiator] = connection.first_sequence
            self.expected[connection.acceptor] = _u24(body, 20)
        elif kind == REJECT and (connection := self.requests.get((receiver, other))):
            connection.rejected = (struct.unpack_from(">H", body, 10)[0], private)

    def packet(self, at_s, receiver, opcode, sequence, payload):
        connection, is_from_initiator = self.pairs[receiver]
        if opcode == ACKNOWLEDGE:
            # Receiver not ready: three bits say so.
            connection.not_ready += payload[0] >> 5 == 1
        if opcode not in SENDS and opcode not in WRITES:
            return
        if sequence != self.expected.get(receiver):
            connection.again += 1
            return
        self.expected[receiver] = (sequence + 1) & 0xFFFFFF
        if opcode in WRITES:
            connection.writes += 1
            return
        part, has_immediate = SENDS[opcode]
        immediate = struct.unpack_from(">I", payload)[0] if has_immediate else None
        parts = [] if part in (FIRST, ONLY) else self.partial.get(receiver, [])
        parts.append(payload[4 if has_immediate else 0:])
        self.partial[receiver] = parts
        if part in (LAST, ONLY):
            connection.messages.append(Message(at_s, is_from_initiator, b"".join(parts), immediate, len(parts)))


def _u24(data, at):
    return int.from_bytes(data[at:at + 3], "big")
