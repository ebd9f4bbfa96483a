#!/usr/bin/env python3
"""Takes the power from a broker under load, again and again, and looks for what it had promised.

A virtual machine runs `fulmar serve` on an ext4 file system on a disk that forgets what was not flushed (disk.py). A
program publishes numbered messages and tells which were confirmed, and which of those that it received it settled. The
machine is killed at a random moment. After the next boot everything that is in the queue is received:

1. Every number that was confirmed and not settled is there.
2. A number that was settled comes back at most marked redelivered.
3. Nothing comes twice, nothing that was never published, and everything in order.
"""

import argparse
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import disk  # noqa: E402
import vm  # noqa: E402

MODULES = ["virtio_pci", "virtio_blk", "9pnet_virtio", "9p", "crc32c_cryptoapi", "crc32c_generic", "ext4"]
BOOT_S = 240


class Round:
    """What the console of one boot said. A message is a pair: which boot published it, and its number."""

    def __init__(self, number):
        self.number = number
        self.confirmed = 0
        self.settling, self.got, self.log, self.failed = set(), [], [], []
        self.is_loading = False

    def line(self, text):
        word, *rest = text.split() or [""]
        if word == "CONFIRMED":
            self.confirmed = int(rest[1])
        elif word == "SETTLING":
            self.settling.add((int(rest[0]), int(rest[1])))
        elif word == "GOT":
            self.got.append(((int(rest[0]), int(rest[1])), rest[2] == "again"))
        elif word == "LOADING":
            self.is_loading = True
        elif word == "FAILED" or "panic" in text:
            self.failed.append(text)
        elif word == "LOG":
            self.log.append(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs=2, type=pathlib.Path, help="the programs fulmar and trail")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--size-mb", type=int, default=512, help="size of the disk")
    parser.add_argument("--options", default="--shards 1 --journal-segment-bytes 4194304", help="further options of the broker")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    chance, cache = random.Random(arguments.seed), vm.default_cache()
    try:
        vm.fetch(cache)
    except vm.Unavailable as reason:
        raise SystemExit(f"no virtual machine: {reason}") from None
    with tempfile.TemporaryDirectory(dir=cache) as work:
        work = pathlib.Path(work)
        image, share, ramdisk = work / "image", work / "share", work / "initramfs"
        with open(image, "wb") as file:
            file.truncate(arguments.size_mb << 20)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", image], check=True)
        pack_share(share, arguments.programs, arguments.options)
        vm.initramfs(cache, MODULES, (HERE / "init").read_text(), ramdisk)
        before, base = None, 0
        for number in range(arguments.rounds + 1):
            is_last = number == arguments.rounds
            now, dropped = one_round(cache, work, image, share, ramdisk, arguments, chance, is_last, number)
            problems = now.failed + (check(before, now) if before else [])
            told = f"confirmed {before.confirmed}, settling {len(before.settling)}, back {len(now.got)}" if before else "empty"
            print(f"round {number}: {told}; then cut: {dropped}", flush=True)
            if problems:
                print("\n".join(problems + now.log[-20:]))
                raise SystemExit(f"failed; seed {arguments.seed}")
            before = now
    print(f"{arguments.rounds} power cuts, nothing missing")


def pack_share(share, programs, options):
    (share / "bin").mkdir(parents=True)
    for program in programs:
        shutil.copy(program, share / "bin" / program.name)
    for library in vm.libraries_of(*programs):
        target = share / "lib" / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    (share / "options").write_text(options)


def one_round(cache, work, image, share, ramdisk, arguments, chance, is_last, number):
    (share / "round").write_text(str(number))
    platter = disk.Disk(image, arguments.size_mb << 20)
    socket = str(work / f"nbd{number}")
    disk.serve(platter, socket)
    machine = vm.boot(cache, ramdisk, share, [
        "-blockdev", f"driver=nbd,server.type=unix,server.path={socket},node-name=disk", "-device", "virtio-blk-pci,drive=disk"])
    found = Round(number)
    reader = threading.Thread(target=read_console, args=(machine, found), daemon=True)
    reader.start()
    deadline = time.monotonic() + BOOT_S
    while not found.is_loading and machine.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    if not found.is_loading:
        found.failed.append("no load within the time")
    elif not is_last:
        time.sleep(chance.uniform(1.0, 10.0))
    in_cache, kept = platter.cut(chance)
    machine.kill()
    machine.wait()
    reader.join(10)
    return found, f"{in_cache} sectors in the cache, {kept} written, {platter.flushes} flushes"


def read_console(machine, found):
    for line in machine.stdout:
        text = line.decode(errors="replace").strip()
        # The last line may have been cut off with the power.
        if line.endswith(b"\n"):
            if os.environ.get("HW_VERBOSE"):
                print("  |", text, flush=True)
            found.line(re.sub(r"^\[[ 0-9.]+\] ", "", text))


def check(before, now):
    """What the boot before had promised, against what came after the cut."""
    problems = []
    there = {message for message, _ in now.got}
    own = [message for message, _ in now.got if message[0] == before.number]
    wanted = {(before.number, number) for number in range(1, before.confirmed + 1)}
    missing = sorted(wanted - before.settling - there)
    if missing:
        problems.append(f"confirmed and missing: {len(missing)}, the first {missing[:20]}")
    # What an earlier boot published has been received since, and is back because its settlement was not stored.
    unmarked = [m for m, again in now.got if not again and (m in before.settling or m[0] != before.number)]
    if unmarked:
        problems.append(f"settled and back unmarked: {unmarked[:20]}")
    if len(there) != len(now.got):
        problems.append("something came twice")
    if own != sorted(own):
        problems.append("out of order")
    return problems


if __name__ == "__main__":
    main()
