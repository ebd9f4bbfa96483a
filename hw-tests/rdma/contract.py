"""The peer's contract of an RDMA connection, held against what was captured (see docs/src/reference/rdma-wire.md).

1. Private data of 8 bytes: largest receive, credit, version.
2. A message is at most the largest receive of its receiver, and the 4 bytes of its trailer.
3. It is whole AMQP frames, or nothing. The protocol's header comes first, the initiator's alone in its message.
4. Nothing is sent without credit, and the last credit only with a message that grants some.
5. Credit is granted for messages that came, once.
"""

import dataclasses
import struct

TRAILER = 4
NO_DATA = 0x10000000
# Behind the 8 bytes on both sides: two Fulmars, whose messages carry a stream and need not be whole frames.
NATIVE = b"FULMAR"
FLAGS = 0xF0000000


@dataclasses.dataclass(frozen=True)
class Parameters:
    largest: int
    credit: int
    version: int

    def __str__(self):
        return f"largest receive {self.largest}, credit {self.credit}, version {self.version}"


def parameters(private):
    """From private data, whose integers are little endian in version 0 and big endian later; the version is big endian."""
    version = struct.unpack_from(">H", private, 6)[0]
    return Parameters(*struct.unpack_from(">IH" if version else "<IH", private), version)


@dataclasses.dataclass
class Direction:
    """What one side sent: `credit` is what it has left."""

    credit: int
    largest: int
    messages: int = 0
    bytes: int = 0
    granted: int = 0
    empty: int = 0
    biggest: int = 0
    lowest_credit: int = 1 << 30
    protocol: bytes = b""


def judge(connection):
    """What was broken, as lines, and the two directions: the initiator's and the acceptor's."""
    asked, answered = parameters(connection.asked), parameters(connection.answered)
    # Each side says what its peer may send: how large, and how much at first.
    from_initiator, from_acceptor = Direction(answered.credit, answered.largest), Direction(asked.credit, asked.largest)
    is_stream = connection.asked[8:14] == NATIVE == connection.answered[8:14]
    broken = []
    if connection.not_ready:
        broken.append(f"a receiver was not ready {connection.not_ready} times")
    for number, message in enumerate(connection.messages):
        own, other = (from_initiator, from_acceptor) if message.is_from_initiator else (from_acceptor, from_initiator)
        who = "initiator" if message.is_from_initiator else "acceptor"
        problems = _message(own, other, message, answered.version, is_stream)
        broken += [f"message {number}, {len(message.data)} bytes of the {who}: {problem}" for problem in problems]
    return broken, from_initiator, from_acceptor


def split(message, version):
    """A message's data, credit and flags."""
    if version == 0:
        credit = message.immediate or 0
        return b"" if credit & NO_DATA else message.data, credit & ~FLAGS, credit & FLAGS
    if len(message.data) < TRAILER:
        return None, 0, 0
    credit = struct.unpack(">I", message.data[-TRAILER:])[0]
    return message.data[:-TRAILER], credit & ~FLAGS, credit & FLAGS


def _message(own, other, message, version, is_stream):
    data, granted, flags = split(message, version)
    if data is None:
        yield "shorter than a trailer"
        return
    if len(data) > own.largest:
        yield f"longer than {own.largest}"
    if version and message.immediate is not None:
        yield "immediate data, which version 1 has not"
    if own.credit < 1:
        yield "sent without credit"
    elif own.credit == 1 and not granted:
        yield "the last credit, and grants none"
    own.lowest_credit = min(own.lowest_credit, own.credit)
    own.credit -= 1
    own.granted += granted
    other.credit += granted
    if own.granted > other.messages:
        yield f"{own.granted} granted for {other.messages} messages"
    own.messages += 1
    own.bytes += len(data)
    own.empty += not data
    own.biggest = max(own.biggest, len(data))
    if is_stream:
        return
    if problem := _not_whole(own, other, data, message.is_from_initiator):
        yield problem


def _not_whole(own, other, data, is_from_initiator):
    at = 0
    if data[:4] == b"AMQP":
        if own.protocol:
            return "a second header"
        own.protocol, at = data[:8], 8
        # An acceptor of the peer's reads the header and drops what follows it.
        if is_from_initiator and len(data) > 8:
            return "more than the protocol's header in its message"
    is_0_10 = (own.protocol or other.protocol)[4:8] == b"\x01\x01\x00\x0a"
    while at < len(data):
        if len(data) - at < (12 if is_0_10 else 8):
            return f"a frame is cut off at byte {at}"
        size = struct.unpack_from(">H", data, at + 2)[0] if is_0_10 else struct.unpack_from(">I", data, at + 3)[0] + 8
        if size < 8 or at + size > len(data):
            return f"a frame of {size} bytes is cut off at byte {at}"
        if not is_0_10 and data[at + size - 1] != 0xCE:
            return f"a frame has no end at byte {at + size - 1}"
        at += size
    return None
