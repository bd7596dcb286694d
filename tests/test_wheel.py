"""The wheel: what is in it, and that it works installed beside packages of the same names as our folders."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ASSETS, ROOT

BUILT = {"build", "__pycache__"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, so that nothing is left beside them."""
    copy, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "exporter", "engines", "models"):
        for path in _files(ROOT / name):
            place = copy / path.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", target, copy)
    return next(target.iterdir())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages: ours, and foreign ones called models, engines and exporter."""
    folder = tmp_path_factory.mktemp("site")
    _run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, wheel)
    for name in ("models", "engines", "exporter"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise RuntimeError('a foreign package was imported')\n")
    return folder


def test_it_holds_what_the_readme_promises(wheel: Path) -> None:
    """Given the wheel -> every source, page, specification, example and C++ file, and nothing outside plainconv."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if not name.startswith(("plainconv/", "plainconv-"))} == set()
    sources = [p for top in ("exporter", "engines", "models") for p in _files(ROOT / top)]
    missing = {f"plainconv/{path.relative_to(ROOT)}" for path in sources} - names
    assert {name for name in missing if "/cpp/tests/" not in name} == set()
    assert {"plainconv/exporter/BUNDLE.md", "plainconv/exporter/py.typed", "plainconv/engines/py.typed"} <= names
    assert "plainconv/engines/cpp/include/plainconv/bundle.hpp" in names
    assert "plainconv/engines/serving/page/static/index.html" in names
    assert "plainconv/engines/kubernetes/inference-service.yaml" in names


@pytest.mark.slow  # the same job as README.md's, which a test runs from the sources
def test_the_main_job_runs_beside_foreign_packages(installed: Path, tmp_path: Path) -> None:
    """Given others' packages called models and engines -> ours is what runs, from the wheel, to a bundle that opens."""
    checkpoint = ASSETS / "vanillanet_digits.pth"
    job = ["run", "vanillanet_digits", "--checkpoint", checkpoint, "--quiet", "-o", tmp_path / "out"]
    _python(installed, "-m", "plainconv.exporter", *job)
    program = (
        "from plainconv import engines; from plainconv.engines import loading; print(loading.__file__)\n"
        f"with engines.load({str(tmp_path / 'out')!r}) as net: print(*net.outputs[0].shape)"
    )
    place, shape = _python(installed, "-c", program).splitlines()
    assert place.startswith(str(installed)) and shape == "1 10"
    assert _python(installed, "-m", "plainconv.exporter", "--version").startswith("plainconv ")


@pytest.mark.parametrize("name", ["exporter", "engines"])
def test_public_names(name: str) -> None:
    """Given dir() and help() of a face -> its public names, and no other."""
    program = f"from plainconv import {name} as face; print(*dir(face)); print(*sorted(face.__all__)); help(face)"
    shown, public, *text = _python(ROOT / "build" / "none", "-c", program).splitlines()
    assert shown.split() == sorted(public.split())
    inner = {path.stem for path in (ROOT / name).glob("*.py")} - set(public.split())
    defined = {line.strip().partition("(")[0] for line in text if line.startswith("    ") and "(" in line}
    assert not inner & defined


def _files(place: Path) -> Iterator[Path]:
    """Every file there that was not made by a build."""
    if place.is_file():
        yield place
        return
    for path in sorted(place.rglob("*")):
        if path.is_file() and not BUILT & set(path.relative_to(place).parts):
            yield path


def _python(packages: Path, *arguments: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(packages), "PYTHONWARNINGS": "ignore"}
    return _run(sys.executable, *arguments, env=environment, cwd=packages if packages.is_dir() else ROOT.parent)


def _run(*command: object, **options: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)
