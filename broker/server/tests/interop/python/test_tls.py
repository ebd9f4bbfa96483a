"""TLS with pika, py-amqp and `openssl s_client`: who comes in, who does not, and what the broker says about it."""

import pathlib
import signal
import socket
import ssl
import subprocess

import amqp
import pika
import pytest

from conftest import PROGRAM, RUNNING, WAIT_S, Process

pytestmark = pytest.mark.skipif(RUNNING is not None, reason="a broker that runs already has no certificates of ours")


def openssl(*words, given=None):
    """Runs openssl, which has to succeed."""
    return subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, input=given).stdout


class Office:
    """Files of an issuer and of what it has issued."""

    def __init__(self, directory, name):
        self.directory = directory
        self.ca, self.ca_key, self.database = (directory / f"{name}.{end}" for end in ("pem", "key", "txt"))
        openssl(
            *"req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 30".split(),
            *("-subj", f"/CN={name}", "-keyout", self.ca_key, "-out", self.ca),
        )
        self.database.touch()
        self.number = directory / f"{name}.number"
        self.number.write_text("01\n")
        self.config = directory / f"{name}.cnf"
        self.config.write_text(
            f"[ca]\ndefault_ca=own\n[own]\ndatabase={self.database}\ncertificate={self.ca}\nprivate_key={self.ca_key}\n"
            f"new_certs_dir={directory}\nrand_serial=yes\ndefault_md=sha256\ndefault_days=30\ndefault_crl_days=30\n"
            f"policy=any\ncopy_extensions=copy\nunique_subject=no\ncrlnumber={self.number}\ncrl_extensions=list\n"
            "[list]\nauthorityKeyIdentifier=keyid\n"
            "[any]\ncommonName=optional\ndomainComponent=optional\n"
        )

    def issue(self, name, subject, *options):
        """A certificate and its key."""
        key, request, certificate = (self.directory / f"{name}.{end}" for end in ("key", "csr", "crt"))
        openssl(
            *"req -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256".split(),
            *("-subj", subject, "-keyout", key, "-out", request, "-addext", "subjectAltName=DNS:localhost"),
        )
        openssl("ca", "-batch", "-notext", "-config", self.config, "-in", request, "-out", certificate, *options)
        key.chmod(0o600)
        return certificate, key

    def revoke(self, certificate):
        """The list of what was revoked, that one included."""
        openssl("ca", "-config", self.config, "-revoke", certificate)
        revoked = self.directory / "revoked.pem"
        openssl("ca", "-config", self.config, "-gencrl", "-out", revoked)
        return revoked


class Pika:
    """pika."""

    @staticmethod
    def connect(port, ca, certificate, host, **options):
        """A connection over TLS."""
        context = ssl.create_default_context(cafile=str(ca))
        if certificate:
            context.load_cert_chain(*map(str, certificate))
        return pika.BlockingConnection(
            pika.ConnectionParameters(
                "localhost",
                port,
                ssl_options=pika.SSLOptions(context, host),
                socket_timeout=WAIT_S,
                blocked_connection_timeout=WAIT_S,
                **options,
            )
        )

    @staticmethod
    def carries(connection, bodies):
        """Publishes messages, with confirms, and gets them back; what came."""
        with connection:
            channel = connection.channel()
            queue = channel.queue_declare("", exclusive=True).method.queue
            channel.confirm_delivery()
            for body in bodies:
                channel.basic_publish("", queue, body)
            messages = channel.consume(queue, auto_ack=True, inactivity_timeout=WAIT_S)
            return [next(messages)[2] for _ in bodies]


class PyAmqp:
    """py-amqp, which was amqplib once."""

    @staticmethod
    def connect(port, ca, certificate, host):
        """A connection over TLS."""
        certfile, keyfile = map(str, certificate) if certificate else (None, None)
        connection = amqp.Connection(
            f"localhost:{port}",
            ssl={
                "ca_certs": str(ca),
                "cert_reqs": ssl.CERT_REQUIRED,
                "server_hostname": host,
                "certfile": certfile,
                "keyfile": keyfile,
            },
            connect_timeout=WAIT_S,
            read_timeout=WAIT_S,
            write_timeout=WAIT_S,
            confirm_publish=True,
        )
        connection.connect()
        return connection

    @staticmethod
    def carries(connection, bodies):
        """Publishes messages, with confirms, and gets them back; what came."""
        with connection:
            channel = connection.channel()
            queue = channel.queue_declare("", exclusive=True).queue
            for body in bodies:
                channel.basic_publish(amqp.Message(body), routing_key=queue)
            got = (channel.basic_get(queue, no_ack=True).body for _ in bodies)
            return [body if isinstance(body, bytes) else body.encode() for body in got]


class Secured:
    """A broker with certificates, and how to talk to it."""

    def __init__(self, process, office, port, tls_port):
        self.process, self.office, self.port, self.tls_port = process, office, port, tls_port

    def connect(self, certificate=None, port=None, ca=None, host="localhost", client=Pika):
        """A connection over TLS."""
        return client.connect(port or self.tls_port, ca or self.office.ca, certificate, host)

    def refuses(self, why, **options):
        """Whether nobody comes in so, and the broker says why."""
        with pytest.raises((pika.exceptions.AMQPError, amqp.AMQPError, OSError)):
            self.connect(**options)
        self.process.expect(why)


@pytest.fixture(scope="module")
def office(tmp_path_factory):
    """An issuer."""
    return Office(tmp_path_factory.mktemp("office"), "issuer")


@pytest.fixture(params=["uring", "epoll"])
def start(request, office, tmp_path):
    """Starts brokers with a certificate for localhost; they are stopped afterwards."""
    started = []
    usual = office.issue(f"server-{request.param}", "/CN=localhost")

    def begin(*options, shows=usual):
        certificate, key = shows
        process = Process(
            *(PROGRAM, "serve", "--no-data-dir", "--data-dir", tmp_path, "--io", request.param, "--shards", 2),
            *("--listen", "127.0.0.1:0", "--tls-port", 0, "--tls-cert", certificate, "--tls-key", key),
            *("--log-level", "debug", *options),
        )
        started.append(process)
        try:
            port = int(process.expect(r"listening on \S*:(\d+)$").group(1))
            tls_port = int(process.expect(r"listening on \S*:(\d+), TLS alone").group(1))
        except AssertionError:
            if request.param == "uring" and any("io_uring" in line for line in process.lines):
                pytest.skip("io_uring is refused here: " + process.lines[-1])
            raise
        return Secured(process, office, port, tls_port)

    yield begin
    for process in started:
        code = process.stop()
        assert code == 0, f"exit code {code}:\n" + "\n".join(process.lines)
        assert not [line for line in process.lines if "panicked" in line]


def carries_messages(connection, client=Pika):
    """Publishes messages of many sizes and gets them back, in order and whole."""
    bodies = [bytes([size % 127]) * size for size in (0, 1, 1000, 16_384, 16_385, 300_000, 3_000_000)]
    bodies += [b"%d" % number for number in range(500)]
    assert client.carries(connection, bodies) == bodies


@pytest.fixture(params=[Pika, PyAmqp])
def client(request):
    """A library."""
    return request.param


def test_messages_go_over_tls_on_its_own_port_and_on_the_shared_one(start, client):
    broker = start()
    for port in (broker.tls_port, broker.port):
        carries_messages(broker.connect(port=port, client=client), client)
    carries_messages(pika.BlockingConnection(pika.ConnectionParameters("localhost", broker.port)))


def test_what_is_not_encrypted_is_refused_where_it_has_to_be(start):
    broker = start()
    said = r"without encryption, which is required here; this port speaks AMQP 0-9-1 and 0-10 within TLS"
    with socket.create_connection(("127.0.0.1", broker.tls_port), WAIT_S) as plain:
        plain.sendall(b"AMQP\0\0\x09\x01")
        assert plain.recv(100) == b""
    broker.process.expect(said)
    strict = start("--require-encryption")
    with socket.create_connection(("127.0.0.1", strict.port), WAIT_S) as plain:
        plain.sendall(b"AMQP\0\0\x09\x01")
        assert plain.recv(100) == b""
    strict.process.expect(said)
    carries_messages(strict.connect(port=strict.port))


def test_clients_refuse_a_broker_that_they_should_not_believe(start, client, office, tmp_path):
    broker = start()
    stranger = Office(tmp_path, "stranger")
    # A client may be gone before its reason is read.
    gone = "TLS failed: it hung up during the handshake"
    untrusted = f"TLS failed: it does not trust the issuer of our certificate|{gone}"
    broker.refuses(untrusted, ca=stranger.ca, client=client)
    broker.refuses(f"TLS failed: it does not accept our certificate|{gone}", host="example.org", client=client)
    over = ("-startdate", "20200101000000Z", "-enddate", "20200102000000Z")
    old = start(shows=office.issue("over", "/CN=localhost", *over))
    old.refuses(f"TLS failed: to it our certificate has expired|{gone}", client=client)


def test_certificates_of_clients(start, client, office, tmp_path):
    ann, eve = office.issue("ann", "/CN=ann"), office.issue("eve", "/CN=eve")
    old = office.issue("old", "/CN=old", "-startdate", "20200101000000Z", "-enddate", "20200102000000Z")
    revoked = office.revoke(eve[0])
    stranger = Office(tmp_path, "stranger").issue("other", "/CN=ann")
    asking = ("--tls-client-ca", office.ca, "--tls-crl", revoked, "--tls-client-certs")
    required, wanted = start(*asking, "require"), start(*asking, "want")
    for broker in (required, wanted):
        carries_messages(broker.connect(ann, client=client), client)
        broker.process.expect('by its certificate "ann"')
        broker.refuses("its certificate has been revoked", certificate=eve, client=client)
        broker.refuses("its certificate has expired", certificate=old, client=client)
        broker.refuses("issued by nobody who is trusted here", certificate=stranger, client=client)
    required.refuses("it showed no certificate, which is required here", client=client)
    carries_messages(wanted.connect(client=client), client)


def test_who_a_certificate_names_logs_in_by_it(start, office):
    broker = start("--tls-client-ca", office.ca, "--tls-client-certs", "want")
    options = {"credentials": pika.credentials.ExternalCredentials()}
    carries_messages(Pika.connect(broker.tls_port, office.ca, office.issue("guest", "/CN=guest"), "localhost", **options))
    with pytest.raises(pika.exceptions.AMQPError):
        Pika.connect(broker.tls_port, office.ca, None, "localhost", **options)


def test_new_files_are_taken_on_a_signal_and_bad_ones_are_not(start, office):
    ann = office.issue("ann2", "/CN=ann")
    revoked = office.revoke(office.issue("nobody", "/CN=nobody")[0])
    broker = start("--tls-client-ca", office.ca, "--tls-crl", revoked, "--tls-client-certs", "require")
    stays = broker.connect(ann)
    office.revoke(ann[0])
    broker.process._process.send_signal(signal.SIGHUP)
    broker.process.expect("SIGHUP: certificates, keys and revocation lists were read again")
    broker.refuses("its certificate has been revoked", certificate=ann)
    carries_messages(stays)
    pathlib.Path(revoked).write_text("nothing")
    broker.process._process.send_signal(signal.SIGHUP)
    broker.process.expect("SIGHUP: TLS: .*revoked.pem: there is no revocation list in it; everything stays as it was")
    broker.refuses("its certificate has been revoked", certificate=ann)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_speaks_with_it_and_resumes(start, office, tmp_path, version):
    broker = start()
    words = ["s_client", version, "-connect", f"127.0.0.1:{broker.tls_port}", "-CAfile", office.ca, "-quiet"]
    session = tmp_path / "session"
    for more in (("-sess_out", session), ("-sess_in", session)):
        client = subprocess.Popen(
            ["openssl", *map(str, [*words, "-verify_return_error", *more])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with client:
            client.stdin.write(b"AMQP\0\0\x09\x01")
            client.stdin.flush()
            assert client.stdout.read(4) == b"\1\0\0\0", client.stderr.read()
            client.kill()
        broker.process.expect(r"TLS 1\.[23] with \S+, resumed" if "-sess_in" in more else r"TLS 1\.[23] with")


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_and_certificates(start, office, tmp_path, version):
    stranger = Office(tmp_path, "stranger")
    eve = office.issue("eve3", "/CN=eve")
    revoked = office.revoke(eve[0])
    broker = start("--tls-client-ca", office.ca, "--tls-crl", revoked, "--tls-client-certs", "require")
    over = ("-startdate", "20200101000000Z", "-enddate", "20200102000000Z")

    def greeted(certificate=None, ca=office.ca, name="localhost"):
        """What the broker said to s_client."""
        words = ["s_client", version, "-connect", f"127.0.0.1:{broker.tls_port}", "-CAfile", ca, "-quiet"]
        words += ["-verify_return_error", "-verify_hostname", name]
        if certificate:
            words += ["-cert", certificate[0], "-key", certificate[1]]
        # Its input stays open: s_client ends with it.
        with subprocess.Popen(
            ["openssl", *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as client:
            try:
                client.stdin.write(b"AMQP\0\0\x09\x01")
                client.stdin.flush()
            except BrokenPipeError:
                pass
            said = client.stdout.read(4)
            client.kill()
        return said

    assert greeted(office.issue("ann3", "/CN=ann")) == b"\1\0\0\0"
    broker.process.expect('by its certificate "ann"')
    gone = "TLS failed: it hung up during the handshake"
    for why, options in [
        ("it showed no certificate, which is required here", {}),
        ("its certificate has been revoked", {"certificate": eve}),
        ("its certificate has expired", {"certificate": office.issue("old3", "/CN=old", *over)}),
        ("issued by nobody who is trusted here", {"certificate": stranger.issue("other3", "/CN=ann")}),
        (f"it does not trust the issuer of our certificate|{gone}", {"ca": stranger.ca}),
        (f"it does not accept our certificate|{gone}", {"name": "example.org"}),
    ]:
        assert greeted(**options) == b"", why
        broker.process.expect(why)


def test_a_broker_that_cannot_use_its_files_does_not_start(office, tmp_path):
    certificate, key = office.issue("open", "/CN=localhost")
    for options, said in [
        (("--require-encryption",), "there is no certificate"),
        (("--tls-cert", certificate, "--tls-key", office.ca_key), "is not the key of the certificate in"),
        (("--tls-cert", tmp_path / "none"), "none: No such file"),
    ]:
        process = Process(PROGRAM, "serve", "--no-data-dir", "--data-dir", tmp_path, "--port", 0, *options)
        process.expect(said)
        assert process.finish() == 1
    key.chmod(0o644)
    options = ("--tls-cert", certificate, "--tls-key", key)
    process = Process(PROGRAM, "serve", "--no-data-dir", "--data-dir", tmp_path, "--port", 0, *options)
    process.expect("can be read by others; chmod 600 it")
    assert process.finish() == 1
