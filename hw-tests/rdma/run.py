#!/usr/bin/env python3
"""Runs the checks of RDMA: on a device of this host if it has one, or else in a virtual machine with Soft-RoCE.

What is checked is in checks/, and where in places.sh. One line a check; exit status 1 if one failed, 0 otherwise, also
when no machine can be had, which is said on one line and in the file that --skipped names.
"""

import argparse
import glob
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import contract  # noqa: E402
import devices  # noqa: E402
import vm  # noqa: E402
import wire  # noqa: E402

MODULES = ["virtio_pci", "9pnet_virtio", "9p", "veth", "dummy", "sch_netem", "crc32_generic", "ib_uverbs", "rdma_ucm", "rdma_rxe"]
TOOLS = [
    "bin/dash", "usr/bin/timeout", "sbin/tc", "bin/ip", "usr/bin/rdma", "usr/bin/rping", "usr/bin/ibv_devinfo", "usr/bin/ib_send_lat", "usr/bin/ib_send_bw", "usr/bin/tcpdump",
    "usr/lib/x86_64-linux-gnu/libibverbs/librxe-rdmav34.so", "etc/libibverbs.d/rxe.driver",
    "usr/lib/x86_64-linux-gnu/libibverbs.so.1", "usr/lib/x86_64-linux-gnu/librdmacm.so.1", "lib/x86_64-linux-gnu/libgcc_s.so.1",
]
SCRIPTS = ["places.sh", "check.sh", "common.sh"]
# Three times what it takes on two cores that have nothing else to do.
TOTAL_S = 600
AMQP_PORT = 5672


class Results:
    """What the checks said, line by line."""

    def __init__(self):
        self.rows, self.failed, self.has_booted, self.is_done = [], [], False, False

    def line(self, text):
        word, *rest = text.split(" ", 1)
        if word == "RESULT":
            place, name, result, took_ms, *why = rest[0].split(" ", 4)
            self.rows.append((place, name, result))
            print(f"  {place:6} {name:20} {result:7} {int(took_ms) / 1000:5.1f} s  {''.join(why)}", flush=True)
        elif word == "TABLE":
            print(f"    {rest[0] if rest else ''}", flush=True)
        elif word == "BOOTED":
            self.has_booted = True
        elif word == "DONE":
            self.is_done = True
        elif word == "FAILED" or "Kernel panic" in text:
            self.failed.append(text)
        if os.environ.get("HW_VERBOSE"):
            print("  |", text, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="*", type=pathlib.Path, help="programs of this host that the checks use")
    parser.add_argument("--peer", type=pathlib.Path, help="a folder with Apache Qpid's broker and tools, built with RDMA")
    parser.add_argument("--keep", type=pathlib.Path, help="a folder for what the checks wrote")
    parser.add_argument("--skipped", type=pathlib.Path, help="where the reason goes if nothing could be run")
    parser.add_argument("--places", default="one two lossy", help="where in the virtual machine")
    parser.add_argument("--only", default="*", help="checks whose name fits this pattern of the shell")
    parser.add_argument("--quick", action="store_true", help="only the checks that say so, in fewer places")
    parser.add_argument("--virtual", action="store_true", help="take a virtual machine even if there is a device")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        out = arguments.keep or pathlib.Path(work) / "out"
        out.mkdir(parents=True, exist_ok=True)
        found = [] if arguments.virtual else devices.usable()
        try:
            results = on_devices(found, out, arguments) if found else in_machine(out, arguments)
        except vm.Unavailable as reason:
            print(f"skipped: {reason}")
            if arguments.skipped:
                arguments.skipped.parent.mkdir(parents=True, exist_ok=True)
                arguments.skipped.write_text(str(reason))
            return 0
        return sum_up(results, out, time.monotonic() - started)


def on_devices(found, out, arguments):
    """Both ends on each device's own address, on this host."""
    print("devices:", ", ".join(map(str, found)), flush=True)
    environment = {**os.environ, "ONLY": arguments.only, "QUICK": "1" if arguments.quick else ""}
    environment["PATH"] = ":".join([*{str(p.resolve().parent) for p in arguments.programs}, environment["PATH"]])
    if arguments.peer:
        environment["PEER"] = str(arguments.peer.resolve())
    places = " ".join(f"{device.name}:{device.address}" for device in found)
    process = subprocess.Popen(["sh", HERE / "check.sh", places, out], env=environment, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    results = Results()
    results.has_booted = True
    for line in process.stdout:
        results.line(line.rstrip())
    results.is_done = process.wait() == 0
    return results


def in_machine(out, arguments):
    """Soft-RoCE in a virtual machine. A machine that dies before it has booted gets a second chance."""
    cache = vm.default_cache()
    vm.fetch(cache)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        share, ramdisk = pathlib.Path(work) / "share", pathlib.Path(work) / "initramfs"
        pack_share(share, cache, arguments)
        vm.initramfs(cache, MODULES, (HERE / "init").read_text(), ramdisk)
        for _ in range(2):
            results = boot(cache, ramdisk, share)
            if results.has_booted:
                break
        shutil.copytree(share / "out", out, dirs_exist_ok=True)
    return results


def pack_share(share, cache, arguments):
    (share / "out").mkdir(parents=True)
    quick = "1" if arguments.quick else ""
    (share / "settings").write_text(f"export PLACES='{arguments.places}' ONLY='{arguments.only}' QUICK='{quick}'\n"
                                   + ("export PEER=/peer\n" if arguments.peer else ""))
    for script in SCRIPTS:
        shutil.copy(HERE / script, share)
    shutil.copytree(HERE / "checks", share / "checks")
    vm.pack_tree(share / "tree", cache, TOOLS, arguments.programs)
    for program in arguments.programs:
        copy_stripped(program, share / "tree/usr/bin" / program.name)
    if arguments.peer:
        pack_peer(share / "tree", arguments.peer.resolve())


def copy_stripped(program, target):
    """Without debugging information, most of a program: the guest reads it slowly, and has it in memory."""
    shutil.copy(program, target)
    if shutil.which("strip"):
        subprocess.run(["strip", target], check=True)


def pack_peer(tree, peer):
    """The peer's folder as /peer, and what it needs of this host beyond the libraries that are there already."""
    shutil.copytree(peer, tree / "peer", symlinks=True)
    programs = [path for path in [*peer.glob("*bin/*"), *peer.rglob("*.so")] if path.is_file()]
    for library in vm.libraries_of(*programs):
        target = tree / library.lstrip("/")
        if not target.exists() and not (peer / "lib" / os.path.basename(library)).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
    for plugin in glob.glob("/usr/lib/*/sasl2/lib*.so*"):
        (tree / plugin.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(plugin, tree / plugin.lstrip("/"))


def boot(cache, ramdisk, share):
    """One run of the machine; what it printed."""
    machine = vm.boot(cache, ramdisk, share)
    results = Results()
    reader = threading.Thread(target=read_console, args=(machine, results), daemon=True)
    reader.start()
    try:
        # Counted, not measured: a host that was suspended meanwhile has not used the time up.
        for _ in range(TOTAL_S * 2):
            # Not all machines go off when they are told to.
            if results.is_done or machine.poll() is not None:
                break
            time.sleep(0.5)
    finally:
        machine.kill()
        machine.wait()
    reader.join(10)
    return results


def read_console(machine, results):
    for line in machine.stdout:
        results.line(line.decode(errors="replace").strip())


def judge(capture):
    """Sums up what went over the wire, in full if asked for; returns what broke the contract."""
    problems, connections, messages, again = [], 0, 0, 0
    for number, connection in enumerate(wire.read(capture)):
        if not connection.answered or connection.port != AMQP_PORT:
            continue
        broken, *directions = contract.judge(connection)
        connections, again = connections + 1, again + connection.again
        messages += sum(direction.messages for direction in directions)
        if os.environ.get("HW_VERBOSE"):
            print(f"  {capture.parent.name}, connection {number}: {describe(connection, directions)}")
        problems += [f"{capture.parent.name}, connection {number}: {text}" for text in broken[:5]]
    verdict = "contract broken" if problems else "contract held"
    print(f"  {capture.parent.name}: {connections} connections, {messages} messages, {again} packets again, {verdict}")
    return problems


def describe(connection, directions):
    text = " and ".join(
        f"{d.messages} messages (up to {d.biggest} B, {d.empty} without data, {d.granted} granted, {d.lowest_credit} credits left at least)"
        for d in directions)
    return f"{contract.parameters(connection.answered)}; {text}; {connection.again} packets again"


def sum_up(results, out, took_s):
    problems = list(results.failed)
    if not results.is_done:
        problems.append("the checks did not come to their end")
    for place, name, result in results.rows:
        if result == "FAILED":
            problems.append(f"{name} in {place}:")
            problems += (out / f"{place}-{name}/log").read_text(errors="replace").splitlines()[-30:]
    for capture in sorted(out.glob("*/wire.pcap")):
        problems += judge(capture)
    print("\n".join(problems), end="\n" if problems else "")
    count = {kind: sum(row[2] == kind for row in results.rows) for kind in ("ok", "FAILED", "skipped")}
    print(f"{count['ok']} passed, {count['FAILED']} failed, {count['skipped']} skipped, {took_s:.0f} s")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
