"""The reader of captures and the judge of the contract, on packets made by hand; and what counts as a usable device."""

import pathlib
import struct

import contract
import devices
import wire

NEAR, FAR = bytes([10, 9, 0, 1]), bytes([10, 9, 0, 2])
HEADER = b"AMQP\x01\x01\x00\x0a"
PRIVATE = struct.pack(">IHH", 1000, 4, 1)


def frame(sender, receiver, opcode, pair, sequence, payload):
    pad = -len(payload) % 4
    packet = bytes([opcode, pad << 4, 255, 255, 0]) + pair.to_bytes(3, "big") + b"\0" + sequence.to_bytes(3, "big")
    packet += payload + bytes(pad + 4)
    udp = struct.pack(">HHHH", 50000, wire.PORT, 8 + len(packet), 0) + packet
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + sender + receiver
    return bytes(12) + b"\x08\x00" + ip + udp


def management(sender, receiver, kind, body, private):
    start, length = wire.PRIVATE_DATA[kind]
    body = body.ljust(start, b"\0") + private.ljust(length, b"\0")
    message = bytes([1, 7, 2, 3]) + bytes(12) + struct.pack(">H", kind) + bytes(6) + body
    return frame(sender, receiver, wire.DATAGRAM, 1, 0, bytes(8) + message)


def request(private=PRIVATE):
    body = bytearray(140)
    body[0:4], body[8:16], body[32:35], body[44:47] = b"near", struct.pack(">Q", 0x1061628), b"\0\0\x11", b"\0\0\x09"
    body[47], body[50] = 5, 7
    return management(NEAR, FAR, wire.REQUEST, bytes(body), bytes(wire.ADDRESSES_BYTES) + private)


def reply(private=PRIVATE):
    body = b"far_" + b"near" + bytes(4) + b"\0\0\x22\0" + bytes(4) + b"\0\0\x05\0"
    return management(FAR, NEAR, wire.REPLY, body, private)


def near(sequence, data, opcode=4):
    return frame(NEAR, FAR, opcode, 0x22, sequence, data)


def far(sequence, data, opcode=4):
    return frame(FAR, NEAR, opcode, 0x11, sequence, data)


def message(data=b"", credit=0):
    return data + struct.pack(">I", credit)


def amqp(length):
    return struct.pack(">BBHBBHI", 15, 0, length, 0, 0, 0, 0) + bytes(length - 12)


def read(tmp_path, *packets):
    data = b"\xd4\xc3\xb2\xa1" + bytes(16) + struct.pack("<I", 1)
    for packet in packets:
        data += struct.pack("<IIII", 7, 0, len(packet), len(packet)) + packet
    path = tmp_path / "wire.pcap"
    path.write_bytes(data)
    return wire.read(path)


def broken(tmp_path, *packets):
    [connection] = read(tmp_path, request(), reply(), *packets)
    return contract.judge(connection)[0]


def test_a_connection_is_read_with_its_private_data(tmp_path):
    [connection] = read(tmp_path, request(), reply())
    assert (connection.port, connection.retry_count, connection.rnr_retry_count) == (5672, 5, 7)
    assert connection.initiator == ("10.9.0.1", 0x11) and connection.acceptor == ("10.9.0.2", 0x22)
    assert connection.asked == PRIVATE + bytes(48) and connection.answered == PRIVATE + bytes(188)
    assert str(contract.parameters(connection.asked)) == "largest receive 1000, credit 4, version 1"


def test_version_0_is_little_endian():
    assert contract.parameters(struct.pack("<IHH", 65535, 64, 0)) == contract.Parameters(65535, 64, 0)


def test_a_refusal_keeps_its_reason(tmp_path):
    refusal = management(FAR, NEAR, wire.REJECT, b"far_near" + b"\0\0" + struct.pack(">H", 28), b"why")
    [connection] = read(tmp_path, request(), refusal)
    assert connection.rejected[0] == 28 and connection.rejected[1].startswith(b"why")
    assert connection.answered is None


def test_packets_become_messages_and_repeated_ones_are_left_out(tmp_path):
    [connection] = read(tmp_path, request(), reply(), near(5, b"abcd", 0), near(6, b"efgh", 1), near(6, b"efgh", 1), near(7, b"i", 2))
    assert [m.data for m in connection.messages] == [b"abcdefghi"]
    assert connection.again == 1 and connection.messages[0].is_from_initiator


def test_what_keeps_the_contract_is_passed(tmp_path):
    assert broken(
        tmp_path,
        near(5, message(HEADER)), far(9, message(HEADER + amqp(30), 1)), near(6, message(amqp(100) + amqp(20), 1)),
        far(10, message(b"", 1)), near(7, message(amqp(12))),
    ) == []


def test_each_way_to_break_the_contract_is_seen(tmp_path):
    assert broken(tmp_path, near(5, b"abc")) == ["message 0, 3 bytes of the initiator: shorter than a trailer"]
    assert broken(tmp_path, near(5, message(amqp(1004))))[0].endswith("longer than 1000")
    assert broken(tmp_path, near(5, message(HEADER + amqp(12))))[0].endswith("more than the protocol's header in its message")
    assert broken(tmp_path, near(5, message(HEADER)), near(6, message(amqp(30)[:20])))[0].endswith("30 bytes is cut off at byte 0")
    assert broken(tmp_path, near(5, message(HEADER)), near(6, message(amqp(12), 1)))[0].endswith("1 granted for 0 messages")
    assert broken(tmp_path, near(5, message(HEADER) + bytes(2)))
    idle = [near(5 + n, message()) for n in range(5)]
    assert [text.split(": ")[1] for text in broken(tmp_path, *idle)] == ["the last credit, and grants none", "sent without credit"]
    assert broken(tmp_path, far(9, bytes([0x21, 0, 0, 0]), wire.ACKNOWLEDGE)) == ["a receiver was not ready 1 times"]


def test_frames_of_0_9_1_end_with_their_mark(tmp_path):
    header, method = b"AMQP\0\0\x09\x01", struct.pack(">BHI", 1, 0, 3) + b"abc"
    assert broken(tmp_path, near(5, message(header)), near(6, message(method + b"\xce"))) == []
    assert broken(tmp_path, near(5, message(header)), near(6, message(method + b"\0")))[0].endswith("has no end at byte 10")


def test_a_device_needs_an_active_port_and_an_address(tmp_path: pathlib.Path):
    for name, state in (("up", "4: ACTIVE"), ("down", "1: DOWN"), ("bare", "4: ACTIVE")):
        interfaces = tmp_path / name / "ports/1/gid_attrs/ndevs"
        interfaces.mkdir(parents=True)
        (tmp_path / name / "ports/1/state").write_text(state + "\n")
        (interfaces / "0").write_text(f"{name}0\n")
    known = {"up0": "10.0.0.1", "down0": "10.0.0.2"}
    assert devices.usable(tmp_path, known.get) == [devices.Device("up", "10.0.0.1")]
