"""Puts what `exporter inspect out/digits` prints into the README: `make run` first, then this file."""

import re
import subprocess
import sys

from places import ROOT

README = ROOT / "README.md"
SAMPLE = re.compile(r"(<!-- sample: .*? -->\n```\n)(.*?)(```\n)", re.DOTALL)
WIDEST = 118


def sample() -> str:
    """The output of a terminal as wide as the README's samples, without its seconds; longer lines are cut."""
    wide = f"from plainconv.exporter.cli import main, table; table.NARROW = {WIDEST}"
    command = [sys.executable, "-c", f"{wide}; main.main(['inspect', 'out/digits'])"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    lines = [line.rstrip() for line in text.partition("\nseconds: ")[0].splitlines()]
    return "".join(f"{line if len(line) <= WIDEST else line[: WIDEST - 1] + '…'}\n" for line in lines)


if __name__ == "__main__":
    old = README.read_text(encoding="utf-8")
    README.write_text(SAMPLE.sub(lambda found: found[1] + sample() + found[3], old), encoding="utf-8")
