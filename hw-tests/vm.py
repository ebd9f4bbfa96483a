"""A virtual machine for tests that this host cannot run itself: QEMU, a Debian kernel, an initramfs made on the spot.

Nothing is installed: packages are downloaded with a view of apt's own and unpacked into a cache. Files for the guest are
shared by 9p. Only loopback is used. The machine's processor is emulated unless it has real virtualisation, so no time
that is taken in here means anything.
"""

import fcntl
import glob
import lzma
import os
import pathlib
import platform
import re
import shutil
import subprocess
import tempfile

# Each part of the cache: its suite, and its packages. The kernel's are found through its meta package. QEMU is newer than
# the rest, since bookworm's crashes now and then with more than one emulated processor; so is the kernel, for io_uring.
PARTS = {
    "user": ("bookworm", [
        "busybox-static", "coreutils", "dash", "ibverbs-providers", "ibverbs-utils", "iproute2", "librdmacm1", "perftest", "rdmacm-utils", "tcpdump"]),
    "kernel": ("trixie-backports", []),
    "qemu": ("trixie", ["qemu-system-x86"]),
}
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Unavailable(Exception):
    """No virtual machine can be had here; says why."""


def default_cache():
    """Where what was downloaded stays, unless HW_CACHE says where."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(os.environ.get("HW_CACHE") or f"{home}/fulmar-hw").resolve()


def fetch(cache):
    """Downloads and unpacks QEMU, the kernel and the guest's programs, each once. Raises Unavailable."""
    if platform.machine() != "x86_64":
        raise Unavailable(f"virtual machines are made for x86_64, this is {platform.machine()}")
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, part in PARTS.items():
            stamp = cache / f"{name}.stamp"
            if not stamp.exists() or stamp.read_text() != repr(part):
                _fetch_part(cache, name, *part)
                stamp.write_text(repr(part))


def _fetch_part(cache, name, suite, packages):
    if not shutil.which("apt-get") or not os.path.exists(KEYRING):
        raise Unavailable("QEMU and a kernel come as Debian packages, and here is no apt-get with Debian's keys")
    with tempfile.TemporaryDirectory(dir=cache) as work:
        os.chmod(work, 0o755)
        view = _Apt(pathlib.Path(work), name, suite)
        view.unpack(view.closure(packages) if packages else view.kernel(), cache / name)


class _Apt:
    """apt with sources and state of its own."""

    def __init__(self, work, name, suite):
        self.root = work / name
        for directory in ("lists/partial", "cache/archives/partial", "debs"):
            (self.root / directory).mkdir(parents=True)
        (self.root / "status").touch()
        targets = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], text=True,
                                 capture_output=True, check=True).stdout
        mirror = next((line for line in targets.splitlines() if line.endswith("/debian/")), None)
        if not mirror:
            raise Unavailable("QEMU and a kernel come as Debian packages, and apt knows of no mirror of them here")
        (self.root / "sources.list").write_text(f"deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main\n")
        settings = {
            "Dir::Etc::sourcelist": self.root / "sources.list", "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": self.root / "lists", "Dir::Cache": self.root / "cache",
            "Dir::State::status": self.root / "status", "Acquire::Languages": "none",
            "APT::Sandbox::User": "root", "Acquire::Retries": "3", "Debug::NoLocking": "1",
        }
        config = self.root / "apt.conf"
        config.write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
        self.environment = {**os.environ, "APT_CONFIG": str(config)}
        self._run("apt-get", "-qq", "update")

    def closure(self, packages):
        """The packages and all that they depend on, as if nothing were installed."""
        self._run("apt-get", "-qq", "-y", "--no-install-recommends", "--download-only", "install", *packages)
        return list((self.root / "cache/archives").glob("*.deb"))

    def kernel(self):
        """The newest kernel: its image and modules, which may be packages of their own."""
        meta = self._run("apt-cache", "depends", "linux-image-amd64")
        image = re.search(r"Depends: (linux-image-[0-9]\S*)", meta)[1]
        parts = re.findall(r"Depends: (linux-(?:binary|modules)-[0-9]\S*)", self._run("apt-cache", "depends", image))
        self._run("apt-get", "-qq", "download", *(parts or [image]), cwd=self.root / "debs")
        return list((self.root / "debs").glob("*.deb"))

    def unpack(self, debs, target):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for deb in debs:
            subprocess.run(["dpkg", "-x", deb, target], check=True)

    def _run(self, *command, cwd=None):
        done = subprocess.run(command, env=self.environment, cwd=cwd, text=True, capture_output=True)
        if done.returncode:
            raise Unavailable(f"{' '.join(map(str, command))}: {' '.join(done.stderr.split())}")
        return done.stdout


def initramfs(cache, modules, init, target):
    """Packs busybox, the modules with what they need, and `init`, which finds their order in /modules."""
    root = pathlib.Path(tempfile.mkdtemp(dir=cache))
    try:
        for directory in ("bin", "dev", "proc", "sys", "tmp", "run", "host", "mnt", "modules"):
            (root / directory).mkdir()
        busybox = next(iter(glob.glob(f"{cache}/user/**/bin/busybox", recursive=True)))
        shutil.copy(busybox, root / "bin/busybox")
        order = []
        for module in modules:
            _add_module(cache / "kernel", module, root / "modules", order)
        (root / "modules/order").write_text("".join(f"{name}\n" for name in order))
        (root / "init").write_text(init)
        (root / "init").chmod(0o755)
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        with open(target, "wb") as out:
            subprocess.run([busybox, "cpio", "-o", "-H", "newc", "-R", "0:0"], cwd=root, input=names.encode(),
                           stdout=out, stderr=subprocess.DEVNULL, check=True)
    finally:
        shutil.rmtree(root)


def _add_module(kernel, name, target, order):
    """Adds a module after those that it depends on. One that is built in is nowhere to be found."""
    if name in order:
        return
    pattern = re.sub("[-_]", "[-_]", name)
    found = glob.glob(f"{kernel}/**/{pattern}.ko*", recursive=True)
    if not found:
        return
    code = open(found[0], "rb").read()
    code = lzma.decompress(code) if found[0].endswith(".xz") else code
    for needed in filter(None, re.search(rb"\0depends=([^\0]*)\0", b"\0" + code)[1].decode().split(",")):
        _add_module(kernel, needed, target, order)
    (target / f"{name}.ko").write_bytes(code)
    order.append(name)


def boot(cache, ramdisk, share, arguments=(), memory_mb=1024, processors=2, output=subprocess.PIPE):
    """Starts a machine that sees `share` as 9p tag `host`; its console is the process's output."""
    qemu = cache / "qemu"
    libraries = f"{qemu}/lib/x86_64-linux-gnu:{qemu}/usr/lib/x86_64-linux-gnu"
    # Its own loader and libraries: those of this host may be of another age.
    loader = next(path for path in glob.glob(f"{qemu}/**/ld-linux-x86-64.so.2", recursive=True))
    kernel = next(iter(glob.glob(f"{cache}/kernel/**/vmlinuz*", recursive=True)))
    flags = open("/proc/cpuinfo").read()
    # A para-virtual /dev/kvm exists on some hosts, on which a stock kernel hangs.
    real = os.access("/dev/kvm", os.W_OK) and re.search(r"\b(vmx|svm)\b", flags)
    accelerator = ["-accel", "kvm", "-cpu", "host"] if real else ["-accel", "tcg,thread=multi", "-cpu", "max"]
    command = [
        loader, "--library-path", libraries, f"{qemu}/usr/bin/qemu-system-x86_64",
        "-L", f"{qemu}/usr/share/qemu", "-L", f"{qemu}/usr/share/seabios", *accelerator, "-machine", "q35",
        "-smp", str(processors), "-m", str(memory_mb), "-nodefaults", "-no-user-config", "-display", "none",
        "-no-reboot", "-monitor", "none", "-serial", "stdio",
        "-fsdev", f"local,id=host,path={share},security_model=none", "-device", "virtio-9p-pci,fsdev=host,mount_tag=host",
        "-kernel", kernel, "-initrd", ramdisk, "-append", "console=ttyS0 quiet panic=-1 mitigations=off", *arguments,
    ]
    environment = {**os.environ, "QEMU_MODULE_DIR": f"{qemu}/usr/lib/x86_64-linux-gnu/qemu"}
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                            stderr=subprocess.STDOUT)


def libraries_of(*programs):
    """The shared libraries of this host's programs, loader included."""
    found = set()
    for program in programs:
        text = subprocess.run(["ldd", program], text=True, capture_output=True, check=True).stdout
        found.update(re.findall(r"(/\S+)", text))
    return sorted(found)


def pack_tree(target, cache, names, programs=()):
    """Copies the guest's programs `names` (paths below its root), and libraries for this host's `programs`, to `target`.

    Both bring a C library: the newer one serves both.
    """
    user = cache / "user"
    files = {name: user / name for name in names}
    files.update(_guest_libraries(user, files.values()))
    own = {library.lstrip("/"): pathlib.Path(library) for library in (libraries_of(*programs) if programs else ())}
    is_own_newer = own and _libc_version(own.values()) >= _libc_version(files.values())
    files = {**files, **own} if is_own_newer else {**own, **files}
    for name, source in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target / name)


def _guest_libraries(user, programs):
    """The libraries of programs from the unpacked packages, loader included, by their paths in the guest."""
    folders = [user / "lib/x86_64-linux-gnu", user / "usr/lib/x86_64-linux-gnu"]
    # The link is absolute, and would lead to this host's.
    found = {"lib64/ld-linux-x86-64.so.2": folders[0] / "ld-linux-x86-64.so.2"}
    for program in programs:
        done = subprocess.run([found["lib64/ld-linux-x86-64.so.2"], "--library-path", ":".join(map(str, folders)), "--list", program],
                              text=True, capture_output=True)
        for path in re.findall(rf"=> ({user}/\S+)", done.stdout):
            found[str(pathlib.Path(path).relative_to(user))] = pathlib.Path(path)
    return found


def _libc_version(paths):
    """The version of the C library among `paths`, as a tuple of numbers."""
    libc = next(path for path in paths if path.name == "libc.so.6")
    version = re.search(rb"GNU C Library [^\n]*version (\d+)\.(\d+)", libc.read_bytes())
    return tuple(map(int, version.groups()))
