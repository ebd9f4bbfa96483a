"""A disk that forgets what was not flushed: an NBD server for one client.

What a flush covers, or a write with FUA, is on the disk. The rest is in its cache: at a power cut each sector of each
write in the cache is there or not, as chance has it, whatever the order in which they came.
"""

import mmap
import os
import socket
import struct
import threading
import time

SECTOR = 512
READ, WRITE, DISCONNECT, FLUSH, TRIM = range(5)
FUA = 1
# How long a flush takes, in seconds: the time in which the power may go.
FLUSH_S = 0.02
# Has flags, takes flushes, takes FUA.
FLAGS = 1 | 1 << 2 | 1 << 3


class Disk:
    """A disk of `size` bytes in a file."""

    def __init__(self, path, size):
        self.size = size
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(handle, size)
        self.stable = mmap.mmap(handle, size)
        os.close(handle)
        self.cache = []
        self.lock = threading.Lock()
        self.flushes = 0
        self.is_on = True

    def read(self, offset, length):
        with self.lock:
            data = bytearray(self.stable[offset:offset + length])
            for at, written in self.cache:
                low, high = max(at, offset), min(at + len(written), offset + length)
                if low < high:
                    data[low - offset:high - offset] = written[low - at:high - at]
            return bytes(data)

    def write(self, offset, data, is_forced):
        with self.lock:
            if is_forced:
                # Later than what the cache has for the same place: that must not come after it.
                self._flush()
                self.stable[offset:offset + len(data)] = data
            else:
                self.cache.append((offset, data))

    def flush(self):
        with self.lock:
            self._flush()

    def _flush(self):
        self.flushes += 1
        for at, written in self.cache:
            self.stable[at:at + len(written)] = written
        self.cache.clear()

    def cut(self, random):
        """Takes the power away. How many sectors were in the cache, and how many of them got to the disk."""
        with self.lock:
            self.is_on = False
            sectors = [(at + part, written[part:part + SECTOR])
                       for at, written in self.cache for part in range(0, len(written), SECTOR)]
            share = random.choice([0.0, 0.2, 0.5, 0.9])
            kept = [sector for sector in sectors if random.random() < share]
            random.shuffle(kept)
            for at, written in kept:
                self.stable[at:at + len(written)] = written
            self.cache.clear()
            self.stable.flush()
            return len(sectors), len(kept)


def serve(disk, path):
    """Serves the disk at a socket to one client, on a thread of its own."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    thread = threading.Thread(target=_client, args=(disk, listener), daemon=True)
    thread.start()
    return thread


def _client(disk, listener):
    connection, _ = listener.accept()
    listener.close()
    try:
        _negotiate(connection, disk.size)
        while disk.is_on and _request(connection, disk):
            pass
    except (ConnectionError, EOFError, OSError):
        pass
    finally:
        connection.close()


def _negotiate(connection, size):
    connection.sendall(b"NBDMAGIC" + b"IHAVEOPT" + struct.pack(">H", 1 | 2))
    _take(connection, 4)
    while True:
        _, option, length = struct.unpack(">8sII", _take(connection, 16))
        _take(connection, length)
        reply = lambda kind, data=b"": connection.sendall(
            struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data)
        if option == 1:
            connection.sendall(struct.pack(">QH", size, FLAGS))
            return
        if option in (6, 7):
            # Export's size and flags, then the end.
            reply(3, struct.pack(">HQH", 0, size, FLAGS))
            reply(1)
            if option == 7:
                return
        else:
            reply(1 << 31 | 1)


def _request(connection, disk):
    _, flags, kind, handle, offset, length = struct.unpack(">IHHQQI", _take(connection, 28))
    data = _take(connection, length) if kind == WRITE else b""
    if kind == DISCONNECT or not disk.is_on:
        return False
    answer = b""
    if kind == READ:
        answer = disk.read(offset, length)
    elif kind == WRITE:
        if flags & FUA:
            time.sleep(FLUSH_S)
        disk.write(offset, data, flags & FUA)
    elif kind == FLUSH:
        time.sleep(FLUSH_S)
        disk.flush()
    error = 0 if kind in (READ, WRITE, FLUSH) else 22
    connection.sendall(struct.pack(">IIQ", 0x67446698, error, handle) + answer)
    return True


def _take(connection, length):
    parts = bytearray()
    while len(parts) < length:
        part = connection.recv(min(1 << 20, length - len(parts)))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
