"""Everything that only a GPU can show, as one table: `make gpu`.

    PYTHONPATH=build/links python tests/benchmarks/gpu               # at most ten minutes; appends to RESULTS.md
    PYTHONPATH=build/links python tests/benchmarks/gpu --minutes 30

It runs from a plain checkout with what the machine has: torch with CUDA is enough for most of it. A row that lacks
something is skipped, and says what. Each row is written as soon as it is measured.
"""

import argparse
import datetime
import sys
import time
import traceback
from pathlib import Path

import lanes
import networks
import suite
from conditions import gpu_name, why_no_gpu
from table import Skipped, Table

RESULTS = Path(__file__).parent.parent / "RESULTS.md"
SECTIONS = (suite.section, lanes.section, networks.section)


def main() -> int:
    """Run all sections; 1 where a row is wrong, and not only missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="after which no further row begins")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    missing = why_no_gpu()
    title = f"GPU: {'none' if missing else gpu_name()} ({datetime.date.today().isoformat()})"
    table = Table(title, args.results, ends=time.monotonic() + 60 * args.minutes)
    for section in SECTIONS:
        for row in section():
            try:
                table.add(row, missing)
            except Skipped as skipped:
                table.skip(row, str(skipped))
            except Exception as error:
                traceback.print_exc()
                table.fail(row, f"{type(error).__name__}: {error}")
    return table.end()


if __name__ == "__main__":
    sys.exit(main())
