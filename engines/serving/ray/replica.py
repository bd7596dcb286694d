"""A bundle in a replica, on whichever machine of the cluster that is. Imports no Ray."""

import platform
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from plainconv.exporter.bundle import MANIFEST, Bundle
from plainconv.exporter.errors import BundleError

from ...loading import load
from ...runner import Array


class Replica:
    """The version `sha256` of the bundle in `folder`, loaded; it runs `workers` batches at a time.

    Raises BundleError where the bundle is missing on this machine, damaged or another version, EngineError where
    nothing here runs it.
    """

    def __init__(self, folder: str, sha256: str, workers: int, load_options: Mapping[str, Any]) -> None:
        """`load_options` are `engines.load`'s."""
        if not (Path(folder) / MANIFEST).is_file():
            raise BundleError(
                f"{folder} is no bundle on {platform.node()}; every machine of the cluster must see it at this path"
            )
        bundle = Bundle.open(folder)
        if bundle.sha256 != sha256:
            raise BundleError(
                f"{folder} is another version on {platform.node()}: {bundle.sha256[:12]}, wanted {sha256[:12]}; "
                "let every machine of the cluster see the same folder"
            )
        self._runner = load(bundle, **load_options)
        self._pool = ThreadPoolExecutor(workers, "replica")

    def facts(self) -> dict[str, Any]:
        """What runs it: `runtime`, `precision` and the engine's `profiles`."""
        runner = self._runner
        return {"runtime": runner.backend, "precision": runner.precision, "profiles": tuple(runner.profiles)}

    def submit(self, inputs: Mapping[str, Array]) -> "Future[dict[str, Array]]":
        """The outputs of a batch, as soon as it has had its turn."""
        return self._pool.submit(self._runner, inputs)
