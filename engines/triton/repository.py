"""A model repository of Triton Inference Server from a bundle: all of its models, checked, or none.

`plan_models` says which models, `problems` what is wrong with those that are there, `write_repository` puts them there.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from plainconv.exporter.bundle import Bundle, sha256_of_file, swap
from plainconv.exporter.bundle.manifest import FORMAT, MANIFEST
from plainconv.exporter.errors import BundleError, EngineError

from .check import config_text, is_ours, problems
from .choice import TritonOptions
from .config import CONFIG, MARK, OWNER, VERSION, TritonModel, read_config, text_of_model
from .models import TritonPlan, plan_models

__all__ = ["TritonModel", "TritonOptions", "TritonPlan", "plan_models", "problems", "write_repository"]

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


def write_repository(
    bundle: Bundle,
    repository: Path,
    options: TritonOptions,
    *,
    force: bool = False,
    prune: bool = False,
    staging: Path | None = None,
) -> TritonPlan:
    """Write the models that serve `bundle` into the model repository at `repository`, which may hold others.

    They are written beside it or in `staging`, where Triton must not look, checked by `problems`, and moved in whole,
    the parts of a network before the ensemble of them. On any error what was there is there again. With `force`, models
    of the same name that this program wrote are replaced. The parts of an earlier version have other names, and stay:
    requests are in them until Triton has the new ensemble. `prune` removes those that neither the ensemble written nor
    the one before it runs; where the ensemble is there already, it does that alone.

    Raises EngineError where `plan_models` does, a folder of a model's name is in the way, nothing can be moved in from
    where it would be written, or the disk takes no more; BundleError where the bundle changes meanwhile.
    """
    place = Path(os.path.abspath(repository))
    with _write_errors(repository):
        _check_place(place, repository)
        plan = plan_models(bundle, options)
        names = [model.name for model in plan.models]
        before = _steps_of(place / plan.name)
        left_over = _left_over(place, names, plan.name, before) if place.is_dir() else []
        gone = left_over if prune else []
        notes = [f"{'removed' if prune else 'left for --prune'}: {', '.join(left_over)}"] * bool(left_over)
        written = replace(plan, notes=(*plan.notes, *notes))
        if prune and _is_of(place / plan.name, bundle.sha256):
            names = []
        there = _in_the_way(place, names, plan.name, force)
        with swap.folder_beside(_stage(place, staging)) as stage, _made(place):
            if not names:
                _put(stage, place, [], (), gone)
                return written
            for model in plan.models:
                _write_model(bundle, model, stage / model.name)
            broken = problems(stage, names, options.devices)
            if broken:
                more = f" (and {len(broken) - 1} more)" if broken[1:] else ""
                raise EngineError(f"Triton would not load {broken[0]}{more}; nothing was written: export again")
            swap.sync_tree(stage)
            _put(stage, place, names, there, gone)
    return written


def _check_place(place: Path, repository: Path) -> None:
    """Raise EngineError where no model repository can be."""
    if place.exists() and not place.is_dir():
        raise EngineError(f"{repository} is a file, wanted the folder of a model repository; give another -o")
    if (place / CONFIG).exists():
        raise EngineError(f"{repository} holds a {CONFIG}: it is a model; give the folder that it lies in as -o")
    for folder in (place, *place.parents):
        if (folder / MANIFEST).is_file() and f'"{FORMAT}"'.encode() in (folder / MANIFEST).read_bytes():
            raise EngineError(f"{repository} lies in the bundle {folder}, which holds nothing else; give another -o")


def _in_the_way(place: Path, names: Collection[str], owner: str, force: bool) -> set[str]:
    """The folders that are to be replaced. Raises EngineError where one may not be."""
    there = {name for name in names if os.path.lexists(place / name)}
    for name in sorted(there):
        folder = place / name
        if folder.is_symlink() or not is_ours(folder):
            raise EngineError(
                f"{folder} was not written by this command, which replaces nothing else; give another --name"
            )
        foreign = sorted({path.name for path in folder.iterdir()} - {CONFIG, VERSION})
        if foreign:
            raise EngineError(f"{folder} holds {foreign[0]}, which this command did not write; move it out")
        if _owner(folder) not in (owner, None):
            raise EngineError(f"{folder} is a model of {_owner(folder)}; give another --name")
        if not force:
            raise EngineError(f"{folder} exists, wanted a new model; give --force to replace it, or another --name")
    return there


def _owner(folder: Path) -> str | None:
    """The model that a folder of ours was written for; None where its configuration is damaged."""
    try:
        parameters = read_config(folder / CONFIG).parameters
    except EngineError:
        return None
    return str(parameters[OWNER].string_value) if OWNER in parameters else None


def _left_over(place: Path, names: Collection[str], owner: str, before: Collection[str]) -> list[str]:
    """Parts of earlier networks of that name which neither the new ensemble nor the one `before` runs."""
    kept = {*names, *before, owner}
    folders = [p for p in place.iterdir() if p.name not in kept and not p.is_symlink() and MARK in config_text(p)]
    return sorted(folder.name for folder in folders if _owner(folder) == owner)


def _steps_of(folder: Path) -> set[str]:
    """The models that an ensemble there runs."""
    try:
        return {step.model_name for step in read_config(folder / CONFIG).ensemble_scheduling.step}
    except EngineError:
        return set()


def _is_of(folder: Path, sha256: str) -> bool:
    """Whether the model there was written from the bundle of that hash."""
    try:
        parameters = read_config(folder / CONFIG).parameters
    except EngineError:
        return False
    return MARK in parameters and parameters[MARK].string_value == sha256


def _stage(place: Path, staging: Path | None) -> Path:
    """What the new models are written beside. Triton takes every folder in a repository for a model: never in there.

    Raises EngineError where nothing can be moved into the repository from there.
    """
    parent = next(folder for folder in place.parents if folder.exists())
    if staging is not None:
        folder = Path(os.path.abspath(staging))
        if not folder.is_dir() or place in (folder, *folder.parents):
            raise EngineError(f"--staging {staging} is no folder outside of the repository, as Triton looks into that")
        if place.exists() and folder.stat().st_dev != place.stat().st_dev:
            raise EngineError(f"--staging {staging} is on another file system than the repository; give one beside it")
        return folder / place.name
    is_mount = place.exists() and place.stat().st_dev != parent.stat().st_dev
    if is_mount or not os.access(parent, os.W_OK | os.X_OK):
        why = "is a mount of its own" if is_mount else f"lies in {parent}, which is not writable"
        remedy = "give --staging, a folder on its file system where Triton does not look, or mount the folder above it"
        raise EngineError(f"{place} {why}, and in it Triton would take what is half-written for a model; {remedy}")
    return place


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make `folder` where it is missing, and unmake it if the block is left by an exception."""
    is_new = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _write_model(bundle: Bundle, model: TritonModel, folder: Path) -> None:
    """Its version folder, empty for an ensemble, and its configuration."""
    (folder / VERSION).mkdir(parents=True)
    for name, source in model.files.items():
        target = folder / VERSION / name
        changed = BundleError(
            f"{bundle.folder}: {source} was changed since the bundle was opened; run the command again"
        )
        path = bundle.file(source)
        if not path.is_file():
            raise changed
        shutil.copyfile(path, target)
        if sha256_of_file(target) != bundle.manifest.files[source].sha256:
            raise changed
    (folder / CONFIG).write_text(text_of_model(model), encoding="utf-8")


def _put(stage: Path, place: Path, names: list[str], there: Collection[str], left_over: list[str]) -> None:
    """Move the models in, and what they leave over out; all, or none."""
    moved: list[str] = []
    try:
        for name in names:
            swap.replace(place / name, stage / name, may_replace=name in there)
            moved.append(name)
        for name in left_over:
            os.rename(place / name, stage / name)
            moved.append(name)
    except BaseException:
        for name in reversed(moved):
            if name in left_over:
                os.rename(stage / name, place / name)
            elif name in there:
                swap.replace(place / name, stage / name, may_replace=True)
            else:
                os.rename(place / name, stage / name)
        raise


@contextlib.contextmanager
def _write_errors(repository: Path) -> Iterator[None]:
    """Say in one line what the file system refused."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise EngineError(
                f"disk full while writing {repository}; make room, or give another -o; nothing was left behind"
            ) from error
        found = f"{error.strerror}: {error.filename}"
        raise EngineError(f"{repository} cannot be written ({found}); see to its folder, or give another -o") from error
