"""`exporter simplify`: one ONNX file in, one ONNX file out, the second checked against the first."""

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckFailedError, ExportError, SourceError, write_refused
from ..progress import track

if TYPE_CHECKING:
    from ..surgery import SurgeryReport
    from ..surgery.compare import Check


SUMMARY = "one ONNX file to the smallest that computes it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set up `exporter simplify`."""
    parser.add_argument("model", type=Path, nargs="?", metavar="MODEL.onnx")
    parser.add_argument("-o", "--output", type=Path, metavar="PLAIN.onnx", help="the file to write")
    parser.add_argument("--skip", action="append", default=[], metavar="PASS", help="leave a pass out; repeatable")
    parser.add_argument("--fixed-size", action="store_true", help="allow what only holds at the file's own image size")
    parser.add_argument(
        "--unchecked", action="store_true", help="write the file also where nothing can run it to compare it"
    )
    parser.add_argument("--list", action="store_true", help="list the passes in their order, and do nothing else")


def run(args: argparse.Namespace) -> None:
    """Do it.

    Raises:
        SourceError: an argument is missing.
        ExportError: MODEL.onnx is no sound ONNX file, PLAIN.onnx cannot be written, or a pass is unknown.
        CheckFailedError: the outcome computes something else, or nothing could compare it; nothing is written.

    """
    if args.list:
        _print_passes(as_json=args.json)
        return
    if args.model is None or args.output is None:
        raise SourceError("a MODEL.onnx and -o PLAIN.onnx are wanted, or --list; see exporter simplify --help")
    report, check = simplify_file(
        args.model, args.output, skip=args.skip, fixed_size=args.fixed_size, unchecked=args.unchecked
    )
    if args.json:
        print(json.dumps(_as_json(args, report, check), indent=2))
    else:
        _print_report(args, report, check)


def simplify_file(
    source: Path, target: Path, *, skip: Sequence[str], fixed_size: bool, unchecked: bool = False
) -> "tuple[SurgeryReport, Check]":
    """Write the simplified `source` to `target` once it has been compared with it; the surgery's report and the check.

    Raises as `run` does. An interrupted or failed run leaves `target` as it was.
    """
    from ..surgery import simplify
    from ..surgery.compare import Check, compare

    if not target.parent.is_dir() or target.is_dir():
        raise ExportError(f"{target}: no file can be written there; name one in a folder that exists")
    with write_refused(target, ExportError):
        folder = Path(tempfile.mkdtemp(prefix=".simplify-", dir=target.parent))
    try:
        with track(f"simplifying {source.name}", total=2, unit="steps") as bar:
            bar.advance(0, "surgery")
            report = simplify(source, folder / target.name, skip=skip, fixed_size=fixed_size)
            bar.advance(1, "check")
            check = compare(source, folder / target.name) if report.passes else Check("nothing changed")
            bar.advance(1, "")
        if check.failed:
            wrong = _first_wrong(source, folder, report, skip=skip, fixed_size=fixed_size)
            remedy = f"--skip {wrong} leaves out the pass that does it" if wrong else "leave passes out with --skip"
            raise CheckFailedError(f"{target.name} {check.status}; nothing was written: {remedy}")
        if check.is_open and not unchecked:
            remedy = "nothing was written: --unchecked writes it all the same"
            raise CheckFailedError(f"{target.name} was {check.status}; {remedy}")
        _move(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return report, check


def _first_wrong(
    source: Path, folder: Path, report: "SurgeryReport", *, skip: Sequence[str], fixed_size: bool
) -> str | None:
    """The pass with which the outcome begins to differ, the passes of `report` taken in one by one; by bisection.

    None where that is not one pass: where even none of them gives another function.
    """
    from ..surgery import PASSES, simplify
    from ..surgery.compare import compare

    fired = [each.name for each in report.passes]

    def differs(count: int) -> bool:
        others = {each.name for each in PASSES} - set(fired[:count]) | set(skip)
        simplify(source, folder / "tried.onnx", skip=sorted(others), fixed_size=fixed_size)
        return compare(source, folder / "tried.onnx").failed

    right, wrong = 0, len(fired)
    while wrong - right > 1:
        middle = (right + wrong) // 2
        right, wrong = (right, middle) if differs(middle) else (middle, wrong)
    return fired[wrong - 1] if right or not differs(0) else None


def _move(folder: Path, target: Path) -> None:
    """Move what was written to its place, the model last: before, the file that is there is the old one."""
    files = sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p == folder / target.name)
    with write_refused(target, ExportError):
        for file in files:
            place = target.parent / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)


# ------------------------------------------------------------------ what is shown


def _as_json(args: argparse.Namespace, report: "SurgeryReport", check: "Check") -> dict[str, Any]:
    def side(ops: Mapping[str, int], work: Any) -> dict[str, Any]:
        return {"nodes": sum(ops.values()), "ops": dict(ops), **work.as_json()}

    return {
        "input": str(args.model),
        "output": str(args.output),
        "before": side(report.before, report.work_before),
        "after": side(report.after, report.work_after),
        "passes": [asdict(p) for p in report.passes],
        "rounds": report.rounds,
        "seconds": round(report.seconds, 3),
        "left_alone": report.left_alone or None,
        "check": asdict(check),
    }


def _print_report(args: argparse.Namespace, report: "SurgeryReport", check: "Check") -> None:
    print(f"{args.model} → {args.output}")
    print(report)
    error = f", error {check.error:.1e} of {check.tolerance:.0e}" if check.error is not None else ""
    print(f"check against {args.model.name} in {check.engine or 'ONNX Runtime'}: {check.status}{error}")


def _print_passes(*, as_json: bool) -> None:
    from ..surgery import PASSES

    rows = [
        {"name": p.name, "does": " ".join((type(p).__doc__ or "").split("\n\n")[0].split()), "fixed_size": p.fixes_size}
        for p in PASSES
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(f"{row['name']:<26}{row['does']}{' (with --fixed-size)' if row['fixed_size'] else ''}")
