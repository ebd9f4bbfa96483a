"""Checks what is built in: every dependency comes from the registry or from this repository, under a licence that is
listed here, and no version is left open.

Known vulnerabilities are not looked at: their database is a repository of its own, which is not fetched here; `cargo audit`
and `cargo deny check advisories` do that wherever it can be reached.
"""

import json
import pathlib
import re
import subprocess
import sys

REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"
LICENCES = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
}


def words_of(expression):
    """The words of a licence expression; `/` is how `OR` was once written."""
    return re.findall(r"\(|\)|[^\s()]+(?: WITH [^\s()]+)?", expression.replace("/", " OR "))


def is_free(expression):
    """Whether an expression of SPDX can be met with the listed licences alone."""
    words = words_of(expression)

    def one():
        word = words.pop(0)
        if word != "(":
            return word in LICENCES
        value = any_of()
        assert words.pop(0) == ")", expression
        return value

    def all_of():
        value = one()
        while words and words[0] == "AND":
            words.pop(0)
            value = one() and value
        return value

    def any_of():
        value = all_of()
        while words and words[0] == "OR":
            words.pop(0)
            value = all_of() or value
        return value

    value = any_of()
    assert not words, expression
    return value


def complaints(packages):
    for package in packages:
        name = f"{package['name']} {package['version']}"
        if package["source"] not in (None, REGISTRY):
            yield f"{name}: comes from {package['source']}"
        expression = package["license"]
        if not expression:
            yield f"{name}: names no licence"
        elif not is_free(expression):
            yield f"{name}: licence {expression} is not listed"
        if package["source"] is None:
            for dependency in package["dependencies"]:
                if dependency["req"] == "*" and dependency.get("path") is None:
                    yield f"{name}: any version of {dependency['name']} would do"


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout
    packages = json.loads(listed)["packages"]
    found = sorted(complaints(packages))
    print("\n".join(found) or f"{len(packages)} packages, all from where and under what they may be")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
