"""RDMA devices of this host that a check can use: a port that is up, with an address of the kernel's on it."""

import dataclasses
import pathlib
import re
import shutil
import subprocess


@dataclasses.dataclass(frozen=True)
class Device:
    name: str
    address: str

    def __str__(self):
        return f"{self.name} ({self.address})"


def usable(root=pathlib.Path("/sys/class/infiniband"), addresses=None):
    """One Device for each device with an active port. `addresses` gives an interface's IPv4 address, or None."""
    found = []
    for device in sorted(root.glob("*")):
        active = [port for port in device.glob("ports/*") if (port / "state").read_text().split(":")[-1].strip() == "ACTIVE"]
        interfaces = [name.read_text().strip() for port in active for name in sorted(port.glob("gid_attrs/ndevs/*")) if _reads(name)]
        interfaces += [path.name for path in sorted(device.glob("device/net/*"))] if active else []
        address = next(filter(None, map(addresses or _address_of, dict.fromkeys(interfaces))), None)
        if address:
            found.append(Device(device.name, address))
    return found


def _reads(path):
    """Entries without a GID cannot be read."""
    try:
        return bool(path.read_text().strip())
    except OSError:
        return False


def _address_of(interface):
    if not shutil.which("ip"):
        return None
    done = subprocess.run(["ip", "-4", "-o", "addr", "show", "dev", interface], text=True, capture_output=True)
    match = re.search(r"inet ([0-9.]+)/", done.stdout)
    return match and match[1]
