"""The models that serve a bundle in Triton: which of its engines or graphs, in what batches, on which devices.

A whole network is one model. A split one is a model for each part, and an ensemble of them. Triton starts a step of an
ensemble as soon as what it reads is there, and runs different models side by side, so that the plan's schedule is
kept: its streams start together and join where their values meet. Each part is a model with instances, and so a CUDA
stream, of its own; parts of several streams of one device are several models on the same GPU.

An ensemble cannot batch: its parts do. Requests that have met in a part stay together, as their next steps start at
the same moment. So only the parts that begin the network wait for company, and the delay is paid once.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from plainconv.exporter.bundle import Bundle, SplitRecord
from plainconv.exporter.errors import EngineError

from ..options import Profile
from .choice import Choice, Piece, TritonOptions, chosen
from .config import DEFAULT_FILES, MARK, OWNER, TYPES, Step, TritonModel, Warmup

DEFAULT_MAX_BATCH = 32
"""Of an ONNX graph whose batch is open, where neither an engine of it nor the export says for which it was meant."""
MOST_LETTERS = 120
"""Of the name of a model: it becomes the name of a folder, and stands in URLs."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class TritonPlan:
    """The models of one bundle, the one that clients ask for last, and what a user should know of the choice."""

    models: tuple[TritonModel, ...]
    precision: str
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the model that clients ask for."""
        return self.models[-1].name


def plan_models(bundle: Bundle, options: TritonOptions) -> TritonPlan:
    """The models that serve `bundle` as `options` say. Nothing is read but the manifest, nothing written.

    Raises EngineError where the bundle lacks what is asked for, or Triton could not serve it.
    """
    choice = chosen(bundle, options)
    name = model_name(options.name, bundle.manifest.name)
    limits, notes = _batches(bundle, choice, options)
    if options.max_delay_us and max(limits) < 2:
        raise EngineError(f"a delay is given, but {name} takes no batches to wait for; leave --max-delay-us out")
    shared = {
        MARK: bundle.sha256,
        OWNER: name,
        "plainconv.precision": choice.precision,
    }
    names = {
        piece.part.name: n
        for piece, n in zip(choice.pieces, _names(name, choice, bundle.sha256), strict=True)
        if piece.part
    }
    models = []
    for piece, limit in zip(choice.pieces, limits, strict=True):
        warmups = tuple(_warmups(piece, limit))
        if not warmups:
            notes.append(
                f"{piece} is not warmed up: the size of its inputs is open, and no engine of it says a usual one"
            )
        runtime = "tensorrt" if piece.engine else "onnxruntime"
        begins = piece.part is None or not any(piece.part.sources.values())
        models.append(
            TritonModel(
                name=names[piece.part.name] if piece.part else name,
                runtime=runtime,
                inputs=piece.inputs,
                outputs=piece.outputs,
                max_batch=limit,
                parameters={**shared, "plainconv.file": piece.file},
                files=_files(bundle, piece.file, runtime),
                gpus=_gpus(piece, choice, options),
                instances=options.instances,
                delay_us=None if limit < 2 else options.max_delay_us if begins else 0,
                profiles=len(piece.engine.profiles) if piece.engine else 0,
                warmups=warmups,
            )
        )
    if choice.split is not None:
        models.append(
            TritonModel(
                name=name,
                runtime="ensemble",
                inputs=bundle.inputs,
                outputs=bundle.outputs,
                max_batch=min(limits),
                parameters=shared,
                steps=_steps(choice.split, names, bundle),
            )
        )
    for model in models:
        _refuse_tensors(model)
    return TritonPlan(tuple(models), choice.precision, (*_fewer(choice.split), *choice.notes, *notes))


def _fewer(split: SplitRecord | None) -> Iterator[str]:
    """That a split is over fewer devices than were asked for."""
    asked = split.plan.get("asked") if split else None
    if split and isinstance(asked, int) and split.devices < asked:
        yield f"the split is for {split.devices} of the {asked} devices that `exporter split` was asked for"


def model_name(given: str, network: str) -> str:
    """The name that is given, or one made of the network's. Raises EngineError for a name that no model may have."""
    if not given:
        return re.sub(r"^[.-]+|[^A-Za-z0-9._-]", "_", network)[: MOST_LETTERS // 2] or "model"
    if not _NAME.fullmatch(given) or len(given) > MOST_LETTERS:
        raise EngineError(
            f"{given!r} is no model name, wanted up to {MOST_LETTERS} letters, digits, '_', '-' and '.', "
            "no '-' or '.' first; give another --name"
        )
    return given


# ------------------------------------------------------------------ where


def _files(bundle: Bundle, file: str, runtime: str) -> dict[str, str]:
    """Its file by Triton's default name; weights beside it keep the name by which the graph knows them."""
    data = f"{file}.data"
    beside = {data.rpartition("/")[2]: data} if data in bundle.manifest.files else {}
    return {DEFAULT_FILES[runtime]: file, **beside}


def _gpus(piece: Piece, choice: Choice, options: TritonOptions) -> tuple[int, ...] | None:
    split, devices = choice.split, options.devices
    if devices == () or (devices is None and piece.engine is None):
        return None
    if split is None or piece.part is None:
        return tuple(dict.fromkeys(devices or ()))
    devices = tuple(range(split.devices)) if devices is None else devices
    if len(devices) != split.devices:
        raise EngineError(
            f"{len(devices)} devices are given, the {split.precision} split is over {split.devices}; "
            f"give --devices {','.join(map(str, range(split.devices)))} or other GPUs, or --whole"
        )
    return (devices[piece.part.device],)


# ------------------------------------------------------------------ batches


def _batches(bundle: Bundle, choice: Choice, options: TritonOptions) -> tuple[list[int], list[str]]:
    """The largest batch of each piece, or 0 in all of them; and why so, where a batch is open."""
    pieces, asked = choice.pieces, options.max_batch
    reason, is_open = _why_no_batches(bundle, pieces)
    if reason and asked is not None:
        raise EngineError(f"a largest batch is given, but nothing can be batched: {reason}; leave --max-batch out")
    if reason:
        return [0] * len(pieces), [f"no batches: {reason}"] if is_open else []
    for piece in pieces:
        reach = _reach(piece.profiles)
        if asked is not None and piece.engine and not 1 <= asked <= reach:
            raise EngineError(
                f"a largest batch of {asked}, but the engine of {piece} takes 1 to {reach} at every size; "
                "give --max-batch within that"
            )
    usual = _reach(choice.profiles) or _exported_for(bundle) or DEFAULT_MAX_BATCH
    return [asked or _reach(piece.profiles) or usual for piece in pieces], []


def _exported_for(bundle: Bundle) -> int:
    """The largest batch that the bundle was exported for; 0 where it does not say."""
    batches = bundle.manifest.source.get("dynamic_batch")
    most = batches[-1] if isinstance(batches, list) and batches else 0
    return most if type(most) is int and 0 < most < 2**31 else 0


def _why_no_batches(bundle: Bundle, pieces: Sequence[Piece]) -> tuple[str, bool]:
    """Why Triton may not put requests together, "" where it may; and whether a batch is open at all.

    It may where axis 0 of every tensor is the same open axis, which is no other axis anywhere, and engines take every
    batch from 1 on: any number of requests may meet.
    """
    first = bundle.inputs[0]
    axis = first.shape[0] if first.shape else 1
    if isinstance(axis, int):
        return f"the batch of {first} is fixed", False
    for spec in (*bundle.inputs, *bundle.outputs, *(s for p in pieces for s in (*p.inputs, *p.outputs))):
        if spec.shape[:1] != (axis,) or any(axis in re.findall(r"\w+", str(other)) for other in spec.shape[1:]):
            return f"axis 0 of {spec}, and no other, should be the open axis {axis} of {first.name}", True
    short = next((piece for piece in pieces if piece.engine and not _reach(piece.profiles)), None)
    return (f"the engine of {short} does not take every batch from 1 on", True) if short else ("", True)


def _reach(profiles: Sequence[Profile]) -> int:
    """The largest batch such that the optimization profiles take every one from 1 to it, at each of their sizes."""
    ranges: dict[object, list[tuple[int, int]]] = {}
    for profile in profiles:
        sizes = tuple((name, covered.min[1:], covered.max[1:]) for name, covered in sorted(profile.items()))
        batches = max(covered.min[0] for covered in profile.values()), min(c.max[0] for c in profile.values())
        ranges.setdefault(sizes, []).append(batches)
    reaches = []
    for covered in ranges.values():
        reach = 0
        for least, most in sorted(covered):
            reach = max(reach, most) if least <= reach + 1 else reach
        reaches.append(reach)
    return min(reaches, default=0)


def _warmups(piece: Piece, limit: int) -> Iterator[Warmup]:
    """One image, and the usual batch of each optimization profile; none where the size of an input is not known."""
    made = set()
    for n, profile in enumerate(piece.profiles or ({},)):
        usual = {spec.name: profile[spec.name].opt if spec.name in profile else spec.shape for spec in piece.inputs}
        shapes = {
            name: tuple(axis for axis in shape[1 if limit else 0 :] if isinstance(axis, int))
            for name, shape in usual.items()
        }
        if any(len(shapes[name]) != len(shape) - bool(limit) or not shapes[name] for name, shape in usual.items()):
            continue
        least = min((covered.min[0] for covered in profile.values()), default=1)
        opt = max((covered.opt[0] for covered in profile.values()), default=1)
        for batch in (1, opt) if limit else (1,):
            known = (batch, *shapes.values())
            if known not in made and (not limit or (batch <= limit and (least <= batch))):
                made.add(known)
                yield Warmup(f"profile {n}, batch {batch}" if piece.profiles else f"batch {batch}", batch, shapes)


# ------------------------------------------------------------------ an ensemble


def version_mark(sha256: str) -> str:
    """What the names of a bundle's parts end in."""
    return f".{sha256[:8]}"


def _names(name: str, choice: Choice, sha256: str) -> list[str]:
    """A model name for each piece: the network's, and behind it that of the part and the bundle's hash.

    So the parts of a new version take nobody's place: requests are in the old ones until the new ensemble is loaded.
    """
    names: list[str] = []
    for piece in choice.pieces:
        part = re.sub(r"[^A-Za-z0-9._-]", "_", piece.part.name) if piece.part else ""
        own = f"{name}.{part}{version_mark(sha256)}" if part else name
        while own.lower() in [other.lower() for other in names]:
            own += "_"
        if len(own) > MOST_LETTERS:
            raise EngineError(
                f"{own!r}, the model of {piece}, has {len(own)} letters, wanted up to {MOST_LETTERS}; "
                "give a shorter --name"
            )
        names.append(own)
    return names


def _steps(split: SplitRecord, names: Mapping[str, str], bundle: Bundle) -> tuple[Step, ...]:
    """The parts as steps. A value has a tensor of its own for each part that writes it, and the network's has its name.

    Values that nothing reads are left out, as Triton refuses an unused tensor.

    Raises EngineError where the network is none that an ensemble can be.
    """
    taken = [*split.results.items(), *(source for part in split.parts for source in part.sources.items())]
    read = {(source, value) for value, source in taken}
    tensors: dict[tuple[str | None, str], str] = {(None, spec.name): spec.name for spec in bundle.inputs}
    tensors |= {(source, value): value for value, source in split.results.items()}
    used = {spec.name for spec in (*bundle.inputs, *bundle.outputs)}
    for part in split.parts:
        for spec in part.outputs:
            if (part.name, spec.name) not in tensors and (part.name, spec.name) in read:
                tensor = f"{part.name}.{spec.name}"
                while tensor in used:
                    tensor += "_"
                used.add(tensor)
                tensors[part.name, spec.name] = tensor
    steps = tuple(
        Step(
            names[part.name],
            {name: tensors[source, name] for name, source in part.sources.items()},
            {s.name: tensors[part.name, s.name] for s in part.outputs if (part.name, s.name) in read},
        )
        for part in split.parts
    )
    idle = [f"its part {step.model} reads or gives nothing" for step in steps if not step.inputs or not step.outputs]
    idle += [f"its input {spec.name} is read by no part" for spec in bundle.inputs if (None, spec.name) not in read]
    idle += [f"its output {name} is an input" for name, source in split.results.items() if source is None]
    if idle:
        raise EngineError(f"the {split.precision} split is no ensemble that Triton takes: {idle[0]}; give --whole")
    return steps


def _refuse_tensors(model: TritonModel) -> None:
    for spec in (*model.inputs, *model.outputs):
        if not spec.shape:
            raise EngineError(f"{spec} of {model.name} is a scalar, which Triton does not serve; give it an axis of 1")
        if spec.dtype not in TYPES:
            raise EngineError(f"{spec} of {model.name} is of a type that Triton does not have; give --whole")
