"""The client's side of SASL by Cyrus SASL, the library of Qpid's own clients, without a binding: a few calls by ctypes."""

import ctypes
import ctypes.util

OK, CONTINUE, INTERACT = 0, 1, 2

LIST_END, USER, AUTHNAME, PASS, GETREALM = 0, 0x4001, 0x4002, 0x4004, 0x4008
SSF_EXTERNAL, SEC_PROPS, AUTH_EXTERNAL, SSF = 100, 101, 102, 1
LONGEST_BYTES = 65535

_TEXT = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_char_p), ctypes.POINTER(ctypes.c_uint)
)
_SECRET = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p))
_REALM = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_char_p),
    ctypes.POINTER(ctypes.c_char_p),
)


class _Callback(ctypes.Structure):
    _fields_ = [("id", ctypes.c_ulong), ("proc", ctypes.c_void_p), ("context", ctypes.c_void_p)]


class _SecurityProperties(ctypes.Structure):
    _fields_ = [
        ("min_ssf", ctypes.c_uint),
        ("max_ssf", ctypes.c_uint),
        ("max_bytes", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("names", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
    ]


class Refused(Exception):
    """The library does not go on."""


class _Library:
    """Loaded and told to begin when it is first needed."""

    loaded = None

    def __new__(cls):
        if cls.loaded is None:
            cls.loaded = ctypes.CDLL("libsasl2.so.2")
            cls.loaded.sasl_errdetail.restype = ctypes.c_char_p
            if cls.loaded.sasl_client_init(None) != OK:
                raise Refused("Cyrus SASL does not start")
        return cls.loaded


class Client:
    """A login of `user`, or of whom a ticket or a certificate names."""

    def __init__(self, service="qpidd", host="localhost", user=None, password=None, strength=(0, 0), external=None):
        self.library = _Library()
        self.user, self.password = user, password
        self.connection = ctypes.c_void_p()
        keep = [_TEXT(self._name), _SECRET(self._secret), _REALM(self._realm)]
        callbacks = []
        if user is not None:
            callbacks = [(USER, keep[0]), (AUTHNAME, keep[0]), (PASS, keep[1]), (GETREALM, keep[2])]
        table = (_Callback * (len(callbacks) + 1))(
            *((kind, ctypes.cast(call, ctypes.c_void_p), None) for kind, call in callbacks), (LIST_END, None, None)
        )
        self._kept = (keep, table, [])
        self._check(
            self.library.sasl_client_new(
                service.encode(), host.encode(), None, None, table, 0, ctypes.byref(self.connection)
            )
        )
        properties = _SecurityProperties(*strength, LONGEST_BYTES, 0, None, None)
        self._set(SEC_PROPS, ctypes.byref(properties))
        if external is not None:
            self._set(SSF_EXTERNAL, ctypes.byref(ctypes.c_uint(256)))
            self._set(AUTH_EXTERNAL, external.encode())

    def _set(self, what, value):
        self._check(self.library.sasl_setprop(self.connection, what, value))

    def _check(self, result):
        if result not in (OK, CONTINUE):
            detail = self.library.sasl_errdetail(self.connection) if self.connection else b""
            raise Refused(f"{result}: {(detail or b'').decode()}")
        return result

    def _name(self, _context, _kind, result, length):
        text = self.user.encode()
        self._kept[2].append(text)
        result[0] = text
        if length:
            length[0] = len(text)
        return OK

    def _secret(self, _connection, _context, _kind, result):
        text = self.password.encode()
        secret = ctypes.create_string_buffer(ctypes.sizeof(ctypes.c_ulong) + len(text) + 1)
        ctypes.c_ulong.from_buffer(secret).value = len(text)
        secret[ctypes.sizeof(ctypes.c_ulong) : ctypes.sizeof(ctypes.c_ulong) + len(text)] = text
        self._kept[2].append(secret)
        result[0] = ctypes.addressof(secret)
        return OK

    @staticmethod
    def _realm(_context, _kind, offered, result):
        result[0] = offered[0] if offered and offered[0] else b""
        return OK

    def start(self, mechanism):
        """What is said first; `None`: nothing yet."""
        out, length, chosen = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_char_p()
        self._check(
            self.library.sasl_client_start(
                self.connection,
                mechanism.encode(),
                None,
                ctypes.byref(out),
                ctypes.byref(length),
                ctypes.byref(chosen),
            )
        )
        return ctypes.string_at(out, length.value) if out.value else None

    def step(self, challenge):
        """The answer to a challenge."""
        out, length = ctypes.c_void_p(), ctypes.c_uint()
        self._check(
            self.library.sasl_client_step(
                self.connection, challenge, len(challenge), None, ctypes.byref(out), ctypes.byref(length)
            )
        )
        return ctypes.string_at(out, length.value) if out.value else b""

    @property
    def strength(self):
        """What the security layer is worth in bits; 0 without one, 1 for integrity alone."""
        value = ctypes.POINTER(ctypes.c_uint)()
        self._check(self.library.sasl_getprop(self.connection, SSF, ctypes.byref(value)))
        return value[0]

    def _code(self, call, data):
        out, length = ctypes.c_void_p(), ctypes.c_uint()
        self._check(call(self.connection, data, len(data), ctypes.byref(out), ctypes.byref(length)))
        return ctypes.string_at(out, length.value) if length.value else b""

    def encode(self, plain):
        """Into the security layer."""
        return self._code(self.library.sasl_encode, plain)

    def decode(self, wrapped):
        """Out of it; what is incomplete the library keeps."""
        return self._code(self.library.sasl_decode, wrapped)

    def close(self):
        self.library.sasl_dispose(ctypes.byref(self.connection))
