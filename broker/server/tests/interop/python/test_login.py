"""Logging in by every mechanism with libraries that are not ours: Cyrus SASL, which Qpid's own clients use, and scramp; over
pika's codec and over frames of AMQP 0-10."""

import hashlib
import hmac
import itertools
import socket
import struct
import subprocess

import pytest
import scramp
from pika import frame as frames
from pika import spec

import amqp010
import cyrus
import kerberos
from conftest import PROGRAM, RUNNING, WAIT_S, Process

REALM = "QPID"
NUMBERS = itertools.count(1)
EVERY = "SCRAM-SHA-256,SCRAM-SHA-1,PLAIN,AMQPLAIN,DIGEST-MD5,CRAM-MD5,CRAM-MD5-HEX,CRAM-MD5-HASHED"


class Login:
    """The client's side of a login by AMQP 0-9-1: frames on a plain socket."""

    def __init__(self, port, source="127.0.0.1"):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S, source_address=(source, 0))
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

    def log_in(self, mechanism, client):
        """All rounds; what the broker says in the end."""
        method = self.begin(mechanism, client.start(mechanism) or b"")
        while isinstance(method, spec.Connection.Secure):
            challenge = method.challenge
            method = self.answer(client.step(challenge if isinstance(challenge, bytes) else challenge.encode("utf-8", "surrogateescape")))
        return method

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


def serve(*options, env=None):
    """A broker that keeps nothing, and its port."""
    process = Process(PROGRAM, "serve", "--port", 0, "--no-data-dir", "--shards", 1, *options, env=env)
    return process, int(process.expect(r"listening on \S*:(\d+)").group(1))


@pytest.fixture(scope="module")
def open_port(tmp_path_factory):
    """The port of a broker that lets in by everything that needs no third party."""
    if RUNNING:
        pytest.skip("a broker that runs already has no users of ours")
    users = tmp_path_factory.mktemp("users") / "users"
    words = [PROGRAM, "user", "--users-file", users, "add", "ann", "--md5", "--password-stdin"]
    subprocess.run(list(map(str, words)), check=True, input="secret\n", text=True)
    process, port = serve("--users-file", users, "--sasl-mechanisms", EVERY, "--anonymous")
    yield port
    assert process.stop() == 0, "\n".join(process.lines)


@pytest.mark.parametrize(
    "mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-1", "DIGEST-MD5", "CRAM-MD5", "PLAIN", "ANONYMOUS"]
)
class TestCyrus:
    """Qpid's clients log in by this library."""

    def test_it_comes_in_by_amqp_0_9_1(self, open_port, mechanism):
        with Login(open_port) as login:
            assert mechanism in login.mechanisms
            client = cyrus.Client(user="ann", password="secret")
            assert isinstance(login.log_in(mechanism, client), spec.Connection.Tune)
            client.close()

    def test_it_comes_in_by_amqp_0_10(self, open_port, mechanism):
        with amqp010.Peer(open_port) as peer:
            assert mechanism in peer.mechanisms
            client = cyrus.Client(user="ann", password="secret", strength=(0, 256))
            assert peer.log_in(mechanism, client) == amqp010.TUNE
            peer.open(client)
            client.close()

    @pytest.mark.parametrize(("user", "password"), [("ann", "wrong"), ("nobody", "secret")])
    def test_it_stays_out(self, open_port, mechanism, user, password):
        if mechanism == "ANONYMOUS":
            return
        # Nobody waits for what others have failed at.
        with amqp010.Peer(open_port, source=f"127.0.1.{next(NUMBERS)}") as peer:
            client = cyrus.Client(user=user, password=password)
            assert peer.log_in(mechanism, client) == amqp010.CLOSE
            client.close()


def test_who_guesses_waits_and_others_do_not():
    if RUNNING:
        pytest.skip("a broker that runs already may have more patience")
    process, port = serve("--handshake-timeout", 2)
    guesses = [Login(port) for _ in range(40)]
    for guess in guesses:
        guess.send(spec.Connection.StartOk({}, "PLAIN", b"\0guest\0wrong", "en_US"))
    with Login(port, source="127.0.0.2") as login:
        assert isinstance(login.begin("PLAIN", b"\0guest\0guest"), spec.Connection.Tune)
    # Those whose turn would come too late are not looked at.
    process.expect("PLAIN login refused: too many failed logins from 127.0.0.1")
    looked_at = sum("wrong password for user" in line for line in process.lines)
    assert 5 <= looked_at < len(guesses)
    for guess in guesses:
        guess.socket.close()
    assert process.stop() == 0


class OldJava:
    """What Qpid's old clients for Java do; the answers of Java itself are a test of the broker's code."""

    def __init__(self, password):
        self.digest = hashlib.md5(password.encode()).digest()

    def start(self, mechanism):
        if mechanism == "CRAM-MD5-HEX":
            self.key = self.digest.hex().encode()
        else:
            self.key = "".join(chr(byte if byte < 0x80 else 0xFF00 | byte) for byte in self.digest).encode()

    def step(self, challenge):
        return b"ann " + hmac.new(self.key, challenge, "md5").hexdigest().encode()


@pytest.mark.parametrize("mechanism", ["CRAM-MD5-HEX", "CRAM-MD5-HASHED"])
def test_old_clients_for_java(open_port, mechanism):
    with amqp010.Peer(open_port) as peer:
        assert peer.log_in(mechanism, OldJava("secret")) == amqp010.TUNE
    with amqp010.Peer(open_port) as peer:
        assert peer.log_in(mechanism, OldJava("other")) == amqp010.CLOSE


def test_amqplain(open_port):
    def field(name, value):
        return struct.pack("!B", len(name)) + name + b"S" + struct.pack("!I", len(value)) + value

    for password, end in [(b"secret", spec.Connection.Tune), (b"wrong", spec.Connection.Close)]:
        with Login(open_port) as login:
            response = field(b"LOGIN", b"ann") + field(b"PASSWORD", password)
            assert isinstance(login.begin("AMQPLAIN", response), end)


@pytest.fixture(scope="module")
def realm(tmp_path_factory):
    """A realm, and the port of a broker in it."""
    if RUNNING:
        pytest.skip("a broker that runs already is in no realm of ours")
    if kerberos.MISSING:
        pytest.skip(f"there is no {kerberos.MISSING[0]}")
    realm = kerberos.Realm(tmp_path_factory.mktemp("realm"), "qpidd")
    realm.tickets = realm.add("ann")
    process, realm.port = serve(
        *("--sasl-mechanisms", "GSSAPI,PLAIN", "--log-level", "debug"), env=realm.environment
    )
    realm.broker = process
    yield realm
    realm.stop()
    assert process.stop() == 0, "\n".join(process.lines)


@pytest.fixture
def ticket(realm, monkeypatch):
    """What a client needs to be ann."""
    for name, value in {**realm.environment, "KRB5CCNAME": f"FILE:{realm.tickets}"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("ticket")
class TestKerberos:
    """With a key distribution centre of MIT Kerberos."""

    def test_a_ticket_lets_in_by_amqp_0_9_1(self, realm):
        with Login(realm.port) as login:
            assert login.mechanisms[0] == "GSSAPI"
            client = cyrus.Client(strength=(0, 256))
            assert isinstance(login.log_in("GSSAPI", client), spec.Connection.Tune)
            assert client.strength == 0, "there is no place for a layer"
            client.close()

    # Integrity counts as one bit.
    @pytest.mark.parametrize("strength", [(0, 0), (1, 1), (56, 256)], ids=["bare", "integrity", "confidentiality"])
    def test_a_ticket_lets_in_by_amqp_0_10(self, realm, strength):
        with amqp010.Peer(realm.port) as peer:
            client = cyrus.Client(strength=strength)
            assert peer.log_in("GSSAPI", client) == amqp010.TUNE
            assert strength[0] <= client.strength <= strength[1]
            peer.open(client)
            # More than fits in a message of the layer, both ways, in pieces that fit nothing.
            names = {channel: f"{channel:04}".encode() * 100 for channel in range(1000)}
            attach = [
                amqp010.control(channel, amqp010.SESSION, amqp010.ATTACH, 1, struct.pack("!H", len(name)) + name)
                for channel, name in names.items()
            ]
            peer.send(b"".join(attach), piece_bytes=999)
            attached = {}
            while len(attached) < len(names):
                of_class, code, fields, channel = peer.frame()
                assert of_class == amqp010.SESSION
                if code == amqp010.ATTACHED:
                    attached[channel] = fields[4:]
            assert attached == names
            client.close()

    def test_who_changes_a_message_is_noticed(self, realm):
        with amqp010.Peer(realm.port) as peer:
            client = cyrus.Client(strength=(1, 1))
            assert peer.log_in("GSSAPI", client) == amqp010.TUNE
            peer.open(client)
            attach = amqp010.control(1, amqp010.SESSION, amqp010.ATTACH, 1, struct.pack("!H", 1) + b"x")
            wrapped = bytearray(client.encode(attach))
            wrapped[-1] ^= 1
            peer.socket.sendall(wrapped)
            assert peer.socket.recv(100) == b""
            realm.broker.expect("security layer: unwrapping: .*(integrity|checksum|MIC)")
            client.close()

    def test_who_sends_a_message_again_is_noticed(self, realm):
        with amqp010.Peer(realm.port) as peer:
            client = cyrus.Client(strength=(56, 256))
            assert peer.log_in("GSSAPI", client) == amqp010.TUNE
            peer.open(client)
            peer.socket.sendall(2 * client.encode(amqp010.control(0, amqp010.CONNECTION, amqp010.HEARTBEAT, 0)))
            assert peer.socket.recv(100) == b""
            realm.broker.expect("security layer: unwrapping: .*(duplicate|later token)")
            client.close()

    def test_a_ticket_is_shown_once(self, realm):
        client = cyrus.Client()
        first = client.start("GSSAPI")
        with Login(realm.port) as login:
            assert isinstance(login.begin("GSSAPI", first), spec.Connection.Secure)
        with Login(realm.port) as login:
            assert isinstance(login.begin("GSSAPI", first), spec.Connection.Close)
        realm.broker.expect("the ticket is not accepted: .*replay")
        client.close()

    def test_what_is_not_wrapped_is_not_taken(self, realm):
        with amqp010.Peer(realm.port) as peer:
            client = cyrus.Client(strength=(1, 1))
            assert peer.log_in("GSSAPI", client) == amqp010.TUNE
            peer.send(amqp010.control(0, amqp010.CONNECTION, amqp010.TUNE_OK, 0b111, struct.pack("!HHH", 1000, 65535, 0)))
            attach = amqp010.control(1, amqp010.SESSION, amqp010.ATTACH, 1, struct.pack("!H", 1) + b"x")
            # In one piece, as somebody in between would have it.
            peer.send(amqp010.control(0, amqp010.CONNECTION, amqp010.OPEN, 1, amqp010.short(b"/")) + attach)
            assert peer.receive()[0] == amqp010.OPEN_OK
            assert peer.socket.recv(100) == b""
            realm.broker.expect("security layer: a message of")
            client.close()

    def test_nobody_acts_for_others(self, realm):
        with amqp010.Peer(realm.port) as peer:
            client = cyrus.Client(user="root", password="")
            assert peer.log_in("GSSAPI", client) == amqp010.CLOSE
            client.close()
        realm.broker.expect("GSSAPI login refused: user 'ann@FULMAR.TEST' wants to be 'root'")

    def test_rubbish_is_no_ticket(self, realm):
        class Rubbish:
            @staticmethod
            def start(_mechanism):
                return b"rubbish"

        with amqp010.Peer(realm.port) as peer:
            assert peer.log_in("GSSAPI", Rubbish) == amqp010.CLOSE
        realm.broker.expect("GSSAPI login refused: GSSAPI: the ticket is not accepted")


def test_a_broker_without_keys_says_so(tmp_path):
    process = Process(
        *(PROGRAM, "serve", "--port", 0, "--no-data-dir", "--sasl-mechanisms", "GSSAPI"),
        env={"KRB5_KTNAME": str(tmp_path / "none")},
    )
    process.expect("GSSAPI: no keys of the service 'qpidd'|GSSAPI: libgssapi_krb5.so.2 cannot be loaded")
    assert process.finish() != 0
