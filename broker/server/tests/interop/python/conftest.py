"""Starts the brokers that the tests talk to: one for each kind of I/O and number of shards, kept for the session.

`FULMAR` names the program (default: the checked build). `AMQP_PORT` names the port of a broker that runs already,
whatever it is; then none is started.
"""

import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import uuid

import pika
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[5]
PROGRAM = pathlib.Path(os.environ.get("FULMAR", ROOT / "target/checked/fulmar"))
TUTORIALS = pathlib.Path(__file__).parent / "tutorials"
WAIT_S = 10

RUNNING = os.environ.get("AMQP_PORT")
KINDS = [("running", 0)] if RUNNING else [("uring", 1), ("uring", 2), ("epoll", 1), ("epoll", 2)]


class Process:
    """A program whose lines are read as they come."""

    def __init__(self, *command, env=None):
        self.command = command
        self.lines = []
        self._fresh = queue.Queue()
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))
            self._fresh.put(line.rstrip("\n"))
        self._fresh.put(None)

    def expect(self, pattern, wait_s=WAIT_S):
        """The match of the next line that has `pattern`."""
        deadline = time.monotonic() + wait_s
        while True:
            try:
                line = self._fresh.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"{self.command}: no line with {pattern!r}, but:\n" + "\n".join(self.lines))
            if match := re.search(pattern, line):
                return match

    def finish(self, wait_s=WAIT_S):
        """Waits for its end and returns the exit code."""
        return self._process.wait(wait_s)

    def stop(self, with_signal=signal.SIGTERM, wait_s=WAIT_S):
        """Asks it to end and returns the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(with_signal)
        try:
            return self.finish(wait_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise AssertionError(f"{self.command} did not end:\n" + "\n".join(self.lines)) from None


class Broker:
    """Where a broker listens, and how to talk to it."""

    def __init__(self, port):
        self.port = port
        self.is_foreign = RUNNING is not None
        self.url = f"amqp://guest:guest@localhost:{port}/%2F"

    def connect(self, user="guest", password="guest", **options):
        """A blocking connection."""
        return pika.BlockingConnection(
            pika.ConnectionParameters(
                "localhost",
                self.port,
                credentials=pika.PlainCredentials(user, password),
                blocked_connection_timeout=WAIT_S,
                socket_timeout=WAIT_S,
                **options,
            )
        )


def io_name(kind):
    """`uring-2` for two shards on io_uring."""
    return f"{kind[0]}-{kind[1]}" if kind[1] else kind[0]


@pytest.fixture(scope="session", params=KINDS, ids=io_name)
def broker(request, tmp_path_factory):
    """A broker. Every test that asks for it runs once for each kind."""
    if RUNNING:
        yield Broker(int(RUNNING))
        return
    io, shards = request.param
    data = tmp_path_factory.mktemp("data")
    process = Process(PROGRAM, "serve", "--port", 0, "--data-dir", data, "--io", io, "--shards", shards)
    try:
        port = int(process.expect(r"listening on \S*:(\d+)").group(1))
    except AssertionError:
        process.stop(signal.SIGKILL)
        if io == "uring" and any("io_uring" in line for line in process.lines):
            pytest.skip("io_uring is refused here: " + process.lines[-1])
        raise
    yield Broker(port)
    code = process.stop()
    assert code == 0, f"exit code {code}:\n" + "\n".join(process.lines)
    assert not [line for line in process.lines if "panicked" in line]


@pytest.fixture
def connection(broker):
    """A connection that is closed afterwards."""
    with broker.connect() as connection:
        yield connection


@pytest.fixture
def channel(connection):
    """A channel of that connection."""
    return connection.channel()


@pytest.fixture
def name():
    """A name that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def tutorial(broker):
    """Starts a tutorial's program; it is killed afterwards if it still runs."""
    started = []

    def start(program, *arguments):
        process = Process(sys.executable, TUTORIALS / program, *arguments, env={"AMQP_URL": broker.url})
        started.append(process)
        return process

    yield start
    for process in started:
        process.stop(signal.SIGKILL)
