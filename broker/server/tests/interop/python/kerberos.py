"""A realm of Kerberos of our own: its key distribution centre on a free port of this host, all of it in one folder."""

import os
import shutil
import signal
import socket
import subprocess

from conftest import Process

REALM = "FULMAR.TEST"
MISSING = [name for name in ("krb5kdc", "kdb5_util", "kadmin.local", "kinit") if not shutil.which(name, path=os.defpath + ":/usr/sbin:/sbin")]


def program(name):
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def free_port():
    """For both kinds of sockets, as good as can be known."""
    for _ in range(50):
        with socket.socket(type=socket.SOCK_DGRAM) as datagrams, socket.socket() as stream:
            datagrams.bind(("127.0.0.1", 0))
            try:
                stream.bind(datagrams.getsockname())
            except OSError:
                continue
            return datagrams.getsockname()[1]
    raise AssertionError("no free port")


class Realm:
    """Started by the first test that needs it."""

    def __init__(self, folder, service):
        self.folder = folder
        self.keytab = folder / "keytab"
        port = free_port()
        (folder / "krb5.conf").write_text(
            f"[libdefaults]\ndefault_realm = {REALM}\ndns_lookup_kdc = false\ndns_lookup_realm = false\n"
            "dns_canonicalize_hostname = false\nrdns = false\n"
            f"[realms]\n{REALM} = {{\nkdc = 127.0.0.1:{port}\n}}\n"
            f"[logging]\nkdc = FILE:{folder / 'kdc.log'}\n"
        )
        (folder / "kdc.conf").write_text(
            f"[kdcdefaults]\nkdc_listen = 127.0.0.1:{port}\nkdc_tcp_listen = 127.0.0.1:{port}\n"
            f"[realms]\n{REALM} = {{\ndatabase_name = {folder / 'principals'}\nkey_stash_file = {folder / 'stash'}\n}}\n"
        )
        self.environment = {
            "KRB5_CONFIG": str(folder / "krb5.conf"),
            "KRB5_KDC_PROFILE": str(folder / "kdc.conf"),
            "KRB5_KTNAME": str(self.keytab),
            "KRB5CCNAME": str(folder / "tickets"),
            "KRB5RCACHENAME": f"dfl:{folder}/replays",
            "KRB5RCACHEDIR": str(folder),
        }
        self._run("kdb5_util", "create", "-s", "-P", "master")
        self._admin(f"addprinc -randkey {service}/localhost")
        self._admin(f"ktadd -k {self.keytab} {service}/localhost")
        self.kdc = Process(program("krb5kdc"), "-n", env=self.environment)
        self.kdc.expect("commencing operation|starting")

    def _run(self, name, *words):
        done = subprocess.run(
            [program(name), *map(str, words)],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"

    def _admin(self, query):
        self._run("kadmin.local", "-q", query)

    def add(self, name):
        """Somebody with a ticket of his own; the file of the ticket."""
        keys, tickets = self.folder / f"{name}.keys", self.folder / f"{name}.tickets"
        self._admin(f"addprinc -randkey {name}")
        self._admin(f"ktadd -k {keys} {name}")
        self._run("kinit", "-k", "-t", keys, "-c", tickets, name)
        return tickets

    def stop(self):
        self.kdc.stop(signal.SIGTERM)
