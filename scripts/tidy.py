"""Checks the files of the repository themselves: nothing large, nothing left over, no test switched off silently."""

import pathlib
import re
import subprocess
import sys

LARGEST_BYTES = 1 << 20

# What must not stand in a file, by the end of its name.
LEFTOVERS = {
    ".rs": [
        (re.compile(r"\b(todo|unimplemented|dbg)!\("), "a leftover macro"),
        (re.compile(r"#\[ignore\]"), "an ignored test without a reason"),
        (re.compile(r"#!?\[allow\((?!.*reason)[^)]*dead_code"), "dead code allowed without a reason"),
    ],
    ".py": [(re.compile(r"@pytest\.mark\.(skip|xfail)\b(?!.*reason)"), "a skipped test without a reason")],
    ".js": [(re.compile(r"\b(it|test|describe)\.(skip|only|todo)\("), "a test that is skipped, or the only one")],
    "package-lock.json": [(re.compile(r'"resolved":'), "a download address")],
}
ANYWHERE = [(re.compile(r"^(<{7}|>{7}) "), "a merge conflict"), (re.compile(r"[ \t]+$"), "trailing blanks")]


def complaints(root):
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root, check=True, capture_output=True
    )
    for name in listed.stdout.decode().split("\0"):
        path = root / name
        if not path.is_file() or "/fuzz/corpus/" in name:
            continue
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            yield f"{name}: {size} bytes, more than {LARGEST_BYTES}"
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        rules = ANYWHERE + [rule for end, some in LEFTOVERS.items() if name.endswith(end) for rule in some]
        for number, line in enumerate(lines, 1):
            for pattern, what in rules:
                if pattern.search(line):
                    yield f"{name}:{number}: {what}"


def main():
    found = list(complaints(pathlib.Path(__file__).resolve().parent.parent))
    print("\n".join(found) or "tidy")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
