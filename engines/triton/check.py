"""Whether Triton would load a model repository and wire it as meant: every `config.pbtxt` against its files and others.

Triton's own rules (its core's model_config_utils and ensemble_utils), and some that it leaves to the first request:
what an ensemble's steps read and write is what they have, each tensor is made once and used, and no step waits for
itself.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plainconv.exporter.errors import EngineError, first_line

from .config import (
    CONFIG,
    DEFAULT_FILES,
    MARK,
    PLATFORMS,
    TYPES,
    VERSION,
    kind_name,
    read_config,
    type_name,
)

_ONNX_TYPES = {  # by ONNX's number
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    16: "bfloat16",
}


@dataclass(frozen=True)
class _Tensor:
    """A tensor as one model has it: its type in Triton's word, its axes without a batch, and whether it has one."""

    type: str
    dims: tuple[int, ...]
    batched: bool

    def __str__(self) -> str:
        return f"{self.type}[{', '.join(map(str, (*['batch'] * self.batched, *self.dims)))}]"

    def fits(self, other: "_Tensor") -> bool:
        """Whether one may be passed on as the other: the same type, rank and axes, where neither is open."""
        same = (self.type, self.batched, len(self.dims)) == (other.type, other.batched, len(other.dims))
        return same and all(a == b or -1 in (a, b) for a, b in zip(self.dims, other.dims, strict=True))


def problems(repository: Path, names: Collection[str] | None = None, gpus: Collection[int] | None = None) -> list[str]:
    """Everything that is wrong with the models `names` of a model repository, in a line each; none: nothing is.

    Args:
        repository: the folder of model folders.
        names: the models to check; by default those that this program wrote. Others are read where a step names them.
        gpus: the GPUs that they may run on; None: any.

    Raises EngineError where tritonclient is not installed, or `repository` cannot be read.

    """
    try:
        own = sorted(names) if names is not None else sorted(p.name for p in repository.iterdir() if is_ours(p))
    except OSError as error:
        raise EngineError(f"{repository} cannot be read ({error.strerror}); give a model repository") from None
    configs: dict[str, Any] = {}
    found = []
    for name in own:
        try:
            configs[name] = read_config(repository / name / CONFIG)
        except EngineError as error:
            found.append(f"{name}: {error}")
    for name, config in configs.items():
        found += [f"{name}: {problem}" for problem in _model_problems(config, repository / name, gpus)]
        if config.platform == PLATFORMS["ensemble"]:
            members = {step.model_name for step in config.ensemble_scheduling.step}
            read = {member: configs.get(member) or _config_or_none(repository / member / CONFIG) for member in members}
            found += [f"{name}: {problem}" for problem in _ensemble_problems(config, read)]
    return found


def is_ours(folder: Path) -> bool:
    """Whether this program wrote a model folder."""
    return f'"{MARK}"' in config_text(folder)


def config_text(folder: Path) -> str:
    """A model folder's `config.pbtxt`; empty where it has none that is text."""
    try:
        return (folder / CONFIG).read_text(encoding="utf-8") if (folder / CONFIG).is_file() else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _config_or_none(path: Path) -> Any:
    try:
        return read_config(path)
    except EngineError:
        return None


# ------------------------------------------------------------------ one model


def _model_problems(config: Any, folder: Path, gpus: Collection[int] | None) -> Iterator[str]:
    if config.name != folder.name:
        yield f"{CONFIG} is that of {config.name!r}, wanted the name of its folder"
    if not (folder / VERSION).is_dir():
        yield f"has no version folder {VERSION}"
    if config.max_batch_size < 0:
        yield f"max_batch_size is {config.max_batch_size}, wanted 0 or more"
    for what, tensors in (("input", config.input), ("output", config.output)):
        if not tensors or len({tensor.name for tensor in tensors}) != len(tensors):
            yield f"has no {what}, or one twice"
        for tensor in tensors:
            yield from (f"{what} {tensor.name}: {problem}" for problem in _tensor_problems(tensor, config))
    if config.platform == PLATFORMS["ensemble"]:
        return
    if config.platform != PLATFORMS.get(config.backend):
        yield f"platform {config.platform!r} does not go with backend {config.backend!r}"
        return
    file = folder / VERSION / (config.default_model_filename or DEFAULT_FILES[config.backend])
    yield from _instance_problems(config, gpus)
    yield from _batching_problems(config)
    for sample in config.model_warmup:
        yield from (f"warmup {sample.name}: {problem}" for problem in _warmup_problems(sample, config))
    if not file.is_file() or not file.stat().st_size:
        yield f"has no {VERSION}/{file.name}"
    elif config.backend == "onnxruntime":
        yield from _onnx_problems(config, file)


def _tensor_problems(tensor: Any, config: Any) -> Iterator[str]:
    if not tensor.name:
        yield "has no name"
    if type_name(tensor.data_type) not in TYPES.values():
        yield f"has type {type_name(tensor.data_type)}"
    if not tensor.dims or not all(n == -1 or n >= 1 for n in tensor.dims):
        yield f"has dims {list(tensor.dims)}, wanted one or more, each -1 or at least 1"
    if tensor.HasField("reshape"):
        if list(tensor.dims) != [1] or tensor.reshape.shape:
            yield f"is reshaped from {list(tensor.dims)} to {list(tensor.reshape.shape)}, wanted [1] to []"
        if not config.max_batch_size:
            yield "is a scalar, which Triton does not serve without a batch"


def _instance_problems(config: Any, gpus: Collection[int] | None) -> Iterator[str]:
    if not config.instance_group:
        yield "has no instance_group"
    for group in config.instance_group:
        kind = kind_name(group.kind)
        if group.count < 1:
            yield f"has {group.count} instances"
        if kind not in ("KIND_CPU", "KIND_GPU"):
            yield f"runs on {kind}, wanted KIND_CPU or KIND_GPU"
        if kind == "KIND_CPU" and (group.gpus or config.backend == "tensorrt"):
            yield f"runs on the CPU, but names GPUs {list(group.gpus)} or is a TensorRT engine"
        if gpus is not None and not set(group.gpus) <= set(gpus):
            yield f"runs on GPUs {list(group.gpus)}, wanted of {sorted(gpus)}"
        if len(set(group.gpus)) != len(group.gpus):
            yield f"names a GPU twice: {list(group.gpus)}"
        if group.profile and config.backend != "tensorrt":
            yield "has optimization profiles, which only a TensorRT engine has"
        if not all(profile.isdecimal() for profile in group.profile):
            yield f"has optimization profiles {list(group.profile)}, wanted numbers"


def _batching_problems(config: Any) -> Iterator[str]:
    if config.HasField("dynamic_batching") and config.max_batch_size < 2:
        yield f"batches dynamically up to {config.max_batch_size}"


def _warmup_problems(sample: Any, config: Any) -> Iterator[str]:
    if not 1 <= sample.batch_size <= max(1, config.max_batch_size):
        yield f"is a batch of {sample.batch_size}, wanted 1 to {max(1, config.max_batch_size)}"
    specs = _tensors(config.input, config)
    if set(sample.inputs) != set(specs):
        yield f"has inputs {sorted(sample.inputs)}, wanted {sorted(specs)}"
        return
    for name, data in sample.inputs.items():
        given = _Tensor(type_name(data.data_type), tuple(data.dims), specs[name].batched)
        if min(given.dims, default=1) < 1 or not given.fits(specs[name]):
            yield f"{name} is {given}, wanted {specs[name]}"


def _tensors(tensors: Iterable[Any], config: Any) -> dict[str, _Tensor]:
    batched = config.max_batch_size > 0
    return {tensor.name: _Tensor(type_name(tensor.data_type), tuple(tensor.dims), batched) for tensor in tensors}


# ------------------------------------------------------------------ an ONNX file


def _onnx_problems(config: Any, file: Path) -> Iterator[str]:
    """Where the file's own inputs and outputs are others than the configuration's; its weights are not loaded."""
    import onnx

    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf's own, and ONNX's
        yield f"{VERSION}/{file.name} is no ONNX file ({first_line(error)})"
        return
    for name in sorted(set(_external_files(model.graph))):
        if not (file.parent / name).is_file():
            yield f"has no {VERSION}/{name}, where weights of {file.name} lie"
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    for what, values, tensors in (("input", inputs, config.input), ("output", model.graph.output, config.output)):
        own = {value.name: value.type.tensor_type for value in values}
        told = {tensor.name: tensor for tensor in tensors}
        if own.keys() != told.keys():
            yield f"has {what}s {sorted(told)}, its {file.name} has {sorted(own)}"
        for name in [name for name in told if name in own]:
            shape = [d.dim_value if d.HasField("dim_value") else -1 for d in own[name].shape.dim]
            tensor = told[name]
            dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
            wanted = [*([-1] if config.max_batch_size else []), *dims]
            type_ = TYPES.get(_ONNX_TYPES.get(own[name].elem_type, ""))
            if shape != wanted or type_ != type_name(tensor.data_type):
                yield f"{what} {name} is {type_name(tensor.data_type)}{wanted}, in {file.name} {type_}{shape}"


def _external_files(graph: Any) -> Iterator[str]:
    """The files that weights of a graph lie in, those of graphs in its nodes too."""
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _external_files(inner)
    for tensor in tensors:
        yield from (entry.value for entry in tensor.external_data if entry.key == "location")


# ------------------------------------------------------------------ an ensemble


def _ensemble_problems(config: Any, members: Mapping[str, Any]) -> Iterator[str]:
    """Where steps do not fit their models, or the tensors between them."""
    if config.instance_group or config.model_warmup or config.HasField("dynamic_batching"):
        yield "is an ensemble with an instance_group, a warmup or dynamic_batching, wanted none"
    steps = list(config.ensemble_scheduling.step)
    missing = [step.model_name for step in steps if members[step.model_name] is None]
    if missing or not steps:
        yield f"has a step {missing[0]!r}, which is no model of the repository" if missing else "has no steps"
        return
    for name, member in members.items():
        if (member.max_batch_size > 0) != (config.max_batch_size > 0) or member.max_batch_size < config.max_batch_size:
            yield f"takes batches of {config.max_batch_size}, its step {name} of {member.max_batch_size}"
    inputs, outputs = _tensors(config.input, config), _tensors(config.output, config)
    made, read = dict(inputs), dict.fromkeys(outputs, "an output")
    for step in steps:
        at, member = f"step {step.model_name}", members[step.model_name]
        if set(step.input_map) != {tensor.name for tensor in member.input} or not step.input_map:
            yield f"{at} maps inputs {sorted(step.input_map)}, its model has {sorted(t.name for t in member.input)}"
        own = _tensors(member.output, member)
        if not step.output_map or not set(step.output_map) <= set(own):
            yield f"{at} maps outputs {sorted(step.output_map)}, its model has {sorted(own)}"
        for name, tensor in step.output_map.items():
            if tensor in made:
                yield f"tensor {tensor!r} is made twice, the second time by {at}"
            made.setdefault(tensor, own.get(name, _Tensor("", (), False)))
        read |= {tensor: at for tensor in step.input_map.values()}
    yield from (
        f"tensor {name!r} is read by {by}, but nothing makes it" for name, by in read.items() if name not in made
    )
    yield from (f"tensor {name!r} is read by nothing" for name in made if name not in read)
    yield from (f"output {name!r} is an input too" for name in inputs if name in outputs)
    yield from _misfits(steps, members, outputs, made)
    stuck = _stuck(steps, set(inputs), set(made))
    if stuck:
        yield f"the steps {', '.join(stuck)} wait for each other"


def _misfits(
    steps: Sequence[Any], members: Mapping[str, Any], outputs: Mapping[str, _Tensor], made: Mapping[str, _Tensor]
) -> Iterator[str]:
    """Tensors that are read as something else than they are made."""
    readers = [("an output", name, tensor) for name, tensor in outputs.items()]
    for step in steps:
        own = _tensors(members[step.model_name].input, members[step.model_name])
        readers += [
            (f"step {step.model_name}", tensor, own[name]) for name, tensor in step.input_map.items() if name in own
        ]
    for by, name, wanted in readers:
        if name in made and not made[name].fits(wanted):
            yield f"tensor {name!r} is made as {made[name]}, but {by} reads {wanted}"


def _stuck(steps: Sequence[Any], ready: set[str], made: set[str]) -> list[str]:
    """The steps that never start though everything they read is made by some step."""
    waiting = list(steps)
    while started := [step for step in waiting if not (set(step.input_map.values()) & made) - ready]:
        ready = ready.union(*(step.output_map.values() for step in started))
        waiting = [step for step in waiting if step not in started]
    return [step.model_name for step in waiting]
