"""Who may import whom, as data, held to the imports of the sources. `python tests/test_architecture.py` prints them."""

import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "helpers"))
import pytest
from imports import TOPS, circle, files, imports, room
from places import ROOT

GROUND = {"errors", "kept", "memory", "modes", "names", "progress", "quiet", "reading", "version", "wheels"}
"""Of exporter/: what every room of it may use."""

EXPORTER: Mapping[str, set[str]] = {
    "cli": {"pipeline", "report", "source", "surgery", "partition", "bundle"},
    "report": {"partition", "onnx_file", "bundle"},
    "pipeline": {
        "source", "to_onnx", "reparam", "onnx_file", "onnx_module", "surgery", "precision", "partition", "parity",
        "bundle", "count",
    },
    "source": {"onnx_module", "onnx_file", "surgery", "reparam", "parity", "bundle"},
    "to_onnx": {"onnx_file", "surgery", "parity"},
    "surgery": {"reparam", "parity", "onnx_file"},
    "count": set(),
    "partition": {"onnx_file"},
    "precision": {"parity", "onnx_file"},
    "reparam": {"parity"},
    "parity": {"count", "onnx_file", "onnx_module", "bundle"},
    "onnx_file": set(),
    "onnx_module": {"onnx_file"},
    "bundle": set(),
}  # fmt: skip
"""The rooms of exporter/, from the commands above the jobs above their steps to the bundle below: what each may use."""

ENGINES: Mapping[str, set[str]] = {
    "serving": {"loading", "bench", "predict", "runner"},
    "triton": {"choice", "options"},
    "bench": {"backend", "cuda", "runner"},
    "pipelined": {"runner"},
    "building": {"tensorrt", "backend", "choice", "cuda", "options"},
    "loading": {
        "split_loading",
        "predict",
        "tensorrt",
        "onnxruntime",
        "backend",
        "choice",
        "cuda",
        "runner",
        "schedule",
    },
    "split_loading": {"tensorrt", "onnxruntime", "choice", "cuda", "runner", "schedule"},
    "tensorrt": {"backend", "cuda", "options", "runner", "schedule"},
    "onnxruntime": {"cuda", "runner", "schedule"},
    "predict": {"runner"},
    "choice": {"backend", "cuda"},
    "backend": {"cuda"},
    "cuda": {"runner"},
    "options": set(),
    "runner": set(),
    "schedule": set(),
}
"""The rooms of engines/, from servers above runners to what every runtime shares."""

ACROSS: Mapping[str, set[str]] = {
    "models": {"exporter.errors", "exporter.progress", "exporter.bundle"},
    "engines": {
        "exporter.bundle", "exporter.errors", "exporter.memory", "exporter.progress", "exporter.reading",
        "exporter.version", "exporter.wheels",
        "exporter.source.shapes",  # the ranges of open axes
        "exporter.onnx_file.layer_types",  # the type of each layer, read off the graph that an engine is of
    },
    "exporter.cli": {"engines", "models"},
    "exporter.pipeline": {"engines"},
    "exporter.source": {"models"},
}  # fmt: skip
"""What goes from one top-level folder to another; whatever is not named here does not."""

ONE_FILE: Mapping[str, set[str]] = {
    "PIL": {"engines.predict.draw", "engines.predict.images", "engines.predict.pixels"},
    "cuda": {"engines.cuda.runtime", "engines.cuda.device_array"},
    "fastapi": {"engines.serving.rest.server"},
    "grpc": {"engines.serving.grpc.server"},
    "jinja2": {"exporter.report.page"},
    "kserve": {"engines.serving.kserve_parts"},
    "matplotlib": {"exporter.report.charts"},
    "onnxscript": {
        "exporter.precision.typed",
        "exporter.to_onnx.custom_ops",
        "exporter.to_onnx.exactly",
        "exporter.to_onnx.translations",
    },
    "orjson": {"engines.serving.rest.codec"},
    "prometheus_client": {"engines.serving.metrics"},
    "pycocotools": {"exporter.pipeline.scores"},
    "ray": {"engines.serving.ray.backend"},
    "rich": {"exporter.cli.table", "exporter.progress"},
    "safetensors": {"models.checkpoints.files"},
    "sklearn": {"models.digits"},
    "tritonclient": {"engines.triton.config"},
    "uvicorn": {"engines.serving.rest.server", "engines.serving.rest.protocol"},
    "uvloop": {"engines.serving.running"},
}
"""Heavy imports, each in its one file (two where the library's own parts lie apart)."""

MOST_LINES = 350
LONGER: Mapping[str, str] = {
    "engines/serving/page/static/page.js": "one script, which a browser fetches once",
}
"""Files of more lines, and why."""


def breaches() -> Iterator[str]:
    """Each import that a rule forbids, with the two files and the rule."""
    modules = files()
    for name, taken in imports().items():
        for other in sorted(taken):
            if reason := _refused(name, other, modules):
                yield f"{_file(modules[name])} imports {_file(modules[other]) if other in modules else other}: {reason}"


def _refused(name: str, other: str, modules: Mapping[str, Path]) -> str | None:
    if other not in modules:
        if other == "torch" and name.startswith("engines"):
            return "engines never reaches torch"
        if other in TOPS:
            return f"ours are imported as plainconv.{other}"
        if name not in ONE_FILE.get(other, {name}):
            return f"{other} is imported in {', '.join(sorted(ONE_FILE[other]))} alone"
        return None
    here, there = room(name), room(other)
    top, other_top = here.partition(".")[0], there.partition(".")[0]
    if here == there or here in TOPS or name == "exporter.__main__":  # a face shows what lies behind it
        return None
    if top != other_top:
        allowed = ACROSS.get(here, set()) | ACROSS.get(top, set())
        return None if any(_within(other, each) for each in allowed) else f"{here} may take {_list(allowed)} of others"
    if top == "models":
        return None
    rules = EXPORTER if top == "exporter" else ENGINES
    ground = GROUND if top == "exporter" else set()
    short = here.partition(".")[2]
    if short in ground:
        return None if there.partition(".")[2] in ground else f"{here} is on the ground"
    if short not in rules:
        return f"{here} has no rule in tests/test_architecture.py"
    allowed = rules[short] | ground
    return None if there.partition(".")[2] in allowed else f"{here} may take {_list(allowed)}"


def _within(module: str, allowed: str) -> bool:
    return module == allowed or module.startswith(f"{allowed}.")


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _file(path: Path) -> str:
    return str(path.relative_to(ROOT))


def arrows() -> dict[str, set[str]]:
    """What each module of ours imports of ours."""
    modules = files()
    return {name: {other for other in taken if other in modules} - {name} for name, taken in imports().items()}


def between_rooms() -> dict[str, set[str]]:
    """The same between rooms, without the faces of the top-level folders."""
    found: dict[str, set[str]] = {}
    for name, taken in arrows().items():
        if room(name) not in TOPS:
            others = {room(other) for other in taken} - {room(name)} - set(TOPS)
            found[room(name)] = found.get(room(name), set()) | others
    return found


def test_every_import_keeps_the_rules() -> None:
    """Given every import of every file -> a rule allows it."""
    assert list(breaches()) == []


@pytest.mark.parametrize(
    ("name", "other", "reason"),
    [
        ("exporter.parity.record", "exporter.surgery.base", "exporter.parity may take"),
        ("engines.runner", "torch", "never reaches torch"),
        ("engines.runner", "exporter.surgery", "engines.runner may take exporter.bundle"),
        ("models.repvgg", "engines.runner", "models.repvgg may take"),
        ("exporter.surgery.base", "engines.runner", "may take nothing of others"),
        ("exporter.errors", "exporter.bundle", "on the ground"),
        ("engines.runner", "ray", "in engines.serving.ray.backend alone"),
        ("exporter.bundle", "models", None),
    ],
)
def test_a_breach_is_told(name: str, other: str, reason: str | None) -> None:
    """Given an import that a rule forbids -> the reason names the rule."""
    found = _refused(name, other, files() if other != "models" else {})
    assert found is not None and (reason or "plainconv.models") in found


def test_no_circle() -> None:
    """Given all files, and all rooms -> none import each other in a ring, not even within functions or for types."""
    assert circle(arrows()) == []
    assert circle(between_rooms()) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_rules_are_of_rooms_that_exist() -> None:
    """Given the rules -> each room of them is a folder or a file, and no arrow of them is unused."""
    for top, rules in (("exporter", EXPORTER), ("engines", ENGINES)):
        used = between_rooms()
        for name, others in rules.items():
            taken = {other.partition(".")[2] for other in used[f"{top}.{name}"] if other.startswith(f"{top}.")}
            assert others <= taken, f"{top}/{name} no longer takes {others - taken}"


def test_no_file_is_too_long() -> None:
    """Given every source file -> at most 350 lines, but for those whose reason stands in the list."""
    sources = [*files().values(), *(p for kind in ("cpp", "hpp", "js") for p in (ROOT / "engines").rglob(f"*.{kind}"))]
    lines = {_file(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources if _is_ours(path)}
    long = {name: count for name, count in lines.items() if count > MOST_LINES}
    assert long.keys() == LONGER.keys(), {name: long.get(name) for name in long.keys() ^ LONGER.keys()}


def _is_ours(path: Path) -> bool:
    """Whether it is a source, not built, and no test of C++."""
    return not {"build", "tests"} & set(path.relative_to(ROOT).parts)


def test_packages_are_the_folders() -> None:
    """Given pyproject's list of packages -> every folder with an `__init__.py`, and C++ and Kubernetes beside them."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["packages"]
    folders = {f"plainconv.{name}" for name, path in files().items() if path.name == "__init__.py"}
    assert set(listed) == folders | {"plainconv.engines.cpp", "plainconv.engines.kubernetes"}
    assert len(listed) == len(set(listed))


if __name__ == "__main__":
    rooms = between_rooms()
    for top in TOPS:
        of_top = {name: taken for name, taken in rooms.items() if name.startswith(top)}
        inner = sum(len({o for o in taken if o.startswith(top)}) for taken in of_top.values())
        count = sum(
            len(path.read_text(encoding="utf-8").splitlines()) for n, path in files().items() if _within(n, top)
        )
        print(f"{top}: {len(of_top)} rooms, {inner} arrows between them, {count} lines")
        for name, taken in sorted(of_top.items()):
            print(f"  {name} -> {_list(taken)}")
    print(f"circle: {' -> '.join(circle(arrows())) or 'none'}")
