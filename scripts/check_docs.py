"""Checks the book without building it: every page is in the summary, every link within the repository leads to a
file, and to a heading of it if it names one. README, change log and the READMEs beside the code are checked too."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BOOK = ROOT / "docs" / "src"
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def without_code(text):
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.S | re.M)
    return re.sub(r"`[^`\n]*`", lambda code: re.sub(r"[\[\]()]", "", code.group()), text)


def anchors(path):
    """The names that a heading gets: lower case, blanks to dashes, other signs dropped."""
    for heading in re.findall(r"^#+ +(.*)$", without_code(path.read_text()), flags=re.M):
        yield re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def broken_links(path):
    for groups in LINK.findall(without_code(path.read_text())):
        target = groups[0] or groups[1]
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        to = (path.parent / name).resolve() if name else path
        if not to.exists():
            yield f"{path.relative_to(ROOT)}: no file {target}"
        elif BOOK in path.parents and BOOK not in to.parents:
            yield f"{path.relative_to(ROOT)}: {target} is outside the book"
        elif anchor and anchor not in anchors(to):
            yield f"{path.relative_to(ROOT)}: no heading #{anchor} in {to.name}"


def main():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )
    pages = [ROOT / name for name in listed.stdout.split() if (ROOT / name).is_file()]
    found = [complaint for page in pages for complaint in broken_links(page)]
    summary = (BOOK / "SUMMARY.md").read_text()
    listed = {(BOOK / (a or b)).resolve() for a, b in LINK.findall(summary)}
    in_book = {page for page in pages if BOOK in page.parents and page.name != "SUMMARY.md"}
    found += [f"docs/src/SUMMARY.md does not list {page.relative_to(BOOK)}" for page in sorted(in_book - listed)]
    print("\n".join(found) or f"{len(pages)} pages, all links lead somewhere")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
