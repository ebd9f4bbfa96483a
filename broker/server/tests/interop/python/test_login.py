"""Logging in by other mechanisms than PLAIN, with libraries that are not ours: pika's codec, and scramp for SCRAM."""

import socket

import pytest
import scramp
from pika import frame as frames
from pika import spec

WAIT_S = 10


class Login:
    """The client's side of a login: frames on a plain socket."""

    def __init__(self, port):
        self.socket = socket.create_connection(("localhost", port), timeout=WAIT_S)
        self.bytes = b""
        self.socket.sendall(b"AMQP\0\0\x09\x01")
        self.start = self.receive()
        assert isinstance(self.start, spec.Connection.Start)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    @property
    def mechanisms(self):
        mechanisms = self.start.mechanisms
        return (mechanisms.decode() if isinstance(mechanisms, bytes) else mechanisms).split()

    def send(self, method):
        self.socket.sendall(frames.Method(0, method).marshal())

    def begin(self, mechanism, response):
        properties = {"capabilities": {"authentication_failure_close": True}}
        self.send(spec.Connection.StartOk(properties, mechanism, response, "en_US"))
        return self.receive()

    def answer(self, response):
        self.send(spec.Connection.SecureOk(response))
        return self.receive()

    def receive(self):
        """The next method."""
        while True:
            taken, frame = frames.decode_frame(self.bytes)
            self.bytes = self.bytes[taken:]
            if frame is not None:
                return frame.method
            more = self.socket.recv(65536)
            assert more, "the broker closed the connection"
            self.bytes += more


def challenge_of(method):
    assert isinstance(method, spec.Connection.Secure), method
    challenge = method.challenge
    return challenge if isinstance(challenge, str) else challenge.decode()


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-1"])
def test_scram(broker, mechanism):
    with Login(broker.port) as login:
        assert mechanism in login.mechanisms
        client = scramp.ScramClient([mechanism], "guest", "guest")
        client.set_server_first(challenge_of(login.begin(mechanism, client.get_client_first())))
        # This checks that the broker knows the password too.
        client.set_server_final(challenge_of(login.answer(client.get_client_final())))
        assert isinstance(login.answer(""), spec.Connection.Tune)


@pytest.mark.parametrize(("user", "password"), [("guest", "wrong"), ("nobody", "guest")])
def test_scram_with_a_wrong_password(broker, user, password):
    with Login(broker.port) as login:
        client = scramp.ScramClient(["SCRAM-SHA-256"], user, password)
        client.set_server_first(challenge_of(login.begin("SCRAM-SHA-256", client.get_client_first())))
        end = login.answer(client.get_client_final())
        assert isinstance(end, spec.Connection.Close) and end.reply_code == 403


def test_nothing_else_is_offered(broker):
    with Login(broker.port) as login:
        assert login.mechanisms == ["SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN", "AMQPLAIN"]
