"""`exporter split`, and how a split is shown."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle import Bundle
from ..errors import PlanError, SourceError
from .arguments import count, names
from .show import show
from .words import only_our_words

if TYPE_CHECKING:
    from ..bundle import SplitRecord
    from ..pipeline.split import SplitJob

SUMMARY = "split a bundle's network into parts for several devices or streams"
MOST = 64
PCIE = "pcie"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set up `exporter split`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    device_arguments(parser)
    parser.add_argument("--streams", type=count(1, MOST), metavar="N", help="for up to N streams of one device instead")
    parser.add_argument("--plan", type=Path, metavar="FILE.json", help="as this plan says, see `inspect --plan --json`")
    parser.add_argument("--precision", type=names, default=(), metavar="P,…", help="which graphs (default: all)")
    parser.add_argument("--batch", type=count(1), default=1, metavar="N", help="planned for, where open (default 1)")
    parser.add_argument("--gpu", default="a100", metavar="a100|h100|…", help="whose times to plan by (default a100)")
    parser.add_argument("--force", action="store_true", help="split even where it does not pay")


def device_arguments(parser: argparse.ArgumentParser) -> None:
    """What the parts run on."""
    parts = parser.add_argument_group("parts")
    parts.add_argument("--devices", type=count(1, MOST), metavar="N", help="split for up to N devices")
    parts.add_argument("--link", default=PCIE, metavar="pcie|nvlink|GB/s:µs", help="between devices (default pcie)")
    parts.add_argument(
        "--placement",
        choices=("auto", "recompute", "transfer"),
        default="auto",
        help="compute on each device what several read, or send it (default: what is faster)",
    )
    parts.add_argument(
        "--profile", metavar="FILE.json|measure", help="seconds by node, or those of this CPU (default: an A100's)"
    )


def run(args: argparse.Namespace) -> None:
    """Do it, and print the plan; as JSON what the bundle holds."""
    from ..pipeline.split import split_bundle

    with only_our_words():
        split_bundle(args.bundle, _job_of(args))
    if args.json:
        show(args, args.bundle)
    else:
        show_splits(args, None)


def _job_of(args: argparse.Namespace) -> "SplitJob":
    """What `exporter split` is asked for. Raises PlanError for a link that is none."""
    from ..partition import link_of_text
    from ..pipeline.split import SplitJob

    return SplitJob(
        devices=args.devices,
        streams=args.streams,
        link=link_of_text(args.link),
        placement=args.placement,
        plan=args.plan,
        profile=args.profile,
        batch=args.batch,
        gpu=args.gpu,
        force=args.force,
        precisions=args.precision,
    )


def job_of_run(args: argparse.Namespace) -> "SplitJob | None":
    """What `exporter run --devices` is asked for. Raises SourceError for an option that is nothing without it."""
    from ..partition import link_of_text
    from ..pipeline.split import SplitJob

    if args.devices is None:
        for option, given in (
            ("--link", args.link != PCIE), ("--placement", args.placement != "auto"), ("--profile", args.profile),
        ):  # fmt: skip
            if given:
                raise SourceError(f"{option} given, and nothing is split; give --devices N too, or leave it out")
        return None
    return SplitJob(args.devices, link=link_of_text(args.link), placement=args.placement, profile=args.profile)


def _splits_of(bundle: Bundle, precision: str | None) -> Sequence["SplitRecord"]:
    """The splits of a bundle, or the one of a precision. Raises PlanError where there is none."""
    splits = [split for split in bundle.splits if precision in (None, split.precision)]
    if not splits:
        of = f" of precision {precision}" if precision else ""
        has = ", ".join(split.precision for split in bundle.splits) or "none"
        raise PlanError(f"{bundle.folder} has no split{of} (it has {has}); make one with `exporter split`")
    return splits


def show_splits(args: argparse.Namespace, precision: str | None) -> None:
    """Print the parts of each split on a timeline, what crosses and what to expect; as JSON the plan of the first.

    Raises PlanError where the bundle has no split, or none of that precision.
    """
    from ..pipeline.split import plan_of_split

    splits = _splits_of(Bundle.open(args.bundle), precision)
    if args.json:
        print(plan_of_split(splits[0]).to_json(), end="")
        return
    for split in splits:
        print("\n".join(_lines(split)))


def _where(devices: int, streams: int) -> str:
    return f"{devices} devices" if devices > 1 else f"1 device, {streams} streams"


def _lines(split: "SplitRecord") -> list[str]:
    from ..partition import picture
    from ..partition.planner import micro
    from ..pipeline.split import proposal_of_split

    proposal, link = proposal_of_split(split)
    made = split.plan
    profile = made.get("profile")
    by = (
        f"the times of {'an A100' if made.get('gpu') in (None, 'a100') else made['gpu']}"
        if profile is None
        else "times measured here, one core"
        if profile == "measure"
        else profile
    )
    asked = made.get("asked") or 1
    fewer = f"planned for {_where(split.devices, split.streams)} of the {asked} asked for"
    why = "; no plan found uses more" if made.get("forced") else ", which do not pay; --force splits over more"
    lines = [fewer + why] if split.devices < asked else []
    lines += [f"{split.precision}, batch {made.get('batch')}, by {by}", *picture(proposal, link)]
    for tried in made.get("tried") or ():
        if tried["devices"] is None:
            lines.append(f"tried: {tried['refusal']}")
        else:
            where = _where(tried["devices"], tried["streams"])
            lines.append(f"tried: {where}, {micro(tried['seconds'])}")
    return lines
