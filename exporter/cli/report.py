"""`exporter report`: a bundle as one HTML file for people."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bundle import Bundle, write_whole
from ..errors import SourceError, write_refused
from ..reading import SMALL, read_at_most

SUMMARY = "a bundle as one HTML file: what was merged, parities, layers, parts, hashes"
INSTALL = "pip install 'plainconv[report]'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set up `exporter report`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.html", help="where it goes")
    parser.add_argument(
        "--device", default="a100", metavar="a100|h100|…", help="the GPU whose floor is shown (default a100)"
    )
    parser.add_argument("--profile", type=Path, metavar="FILE.json", help="measured seconds by node, as for `split`")
    parser.add_argument("--bench", type=Path, metavar="FILE.json", help="single calls, from `exporter bench --raw`")


def run(args: argparse.Namespace) -> None:
    """Write it, and say where it is.

    Raises SourceError, BundleError and PlanError for what cannot be read or written.
    """
    from ..partition import read_profile
    from ..partition.devices import sheet_of_name

    target: Path = args.output
    if target.is_dir() or not target.parent.is_dir():
        raise SourceError(f"{target}: no file can be written there; name one in a folder that exists")
    sheet = sheet_of_name(args.device)
    bundle = Bundle.open(args.bundle)
    if target.resolve().is_relative_to(bundle.folder.resolve()):
        raise SourceError(f"{target} lies in the bundle, which holds nothing else; choose a place beside it")
    latencies, measured_on = ({}, "") if args.bench is None else _samples(args.bench)
    profile = {} if args.profile is None else read_profile(args.profile)
    try:
        from ..report import Extras, report_of_bundle
    except ImportError as error:
        raise SourceError(f"a report needs {error.name or error}, which is not installed; {INSTALL}") from None
    text = report_of_bundle(bundle, Extras(sheet, profile, latencies, measured_on))
    with write_refused(target, SourceError):
        write_whole(target, text.encode())
    size = len(text.encode())
    if args.json:
        print(json.dumps({"bundle": str(bundle.folder), "report": str(target), "bytes": size}))
    else:
        print(f"{target}: {size / 1e3:.0f} kB, one file that asks for nothing else")


def _samples(path: Path) -> tuple[dict[str, Sequence[float]], str]:
    """Milliseconds of single calls by runner, and on which machine. Raises SourceError for another kind of file."""
    try:
        data = json.loads(read_at_most(path, SMALL))
        found: dict[str, Sequence[float]] = {}
        for each in data["samples"]:
            calls = [float(ms) for turn in each["turns_ms"] for ms in turn]
            if not calls or not all(0 < ms < 1e9 for ms in calls):
                raise ValueError
            found[f"{each['runner']}, batch {each['batch']}"] = calls
        return found, _machine(data.get("machine") or {})
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}; give the file that `exporter bench --raw` wrote") from None
    except (AttributeError, KeyError, TypeError, ValueError):
        raise SourceError(f"{path} holds no samples; give the file that `exporter bench --raw` wrote") from None


def _machine(machine: Mapping[str, Any]) -> str:
    return " · ".join(str(machine[key]) for key in ("cpu", "gpu") if machine.get(key))
