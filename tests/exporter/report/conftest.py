"""A split bundle in two precisions, whose records hold what a stranger could put into them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hostile import HOSTILE

from plainconv.exporter.bundle import Bundle, update_bundle
from plainconv.exporter.cli.main import main


@pytest.fixture(scope="session")
def held(branches: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path: Path = branches.of("bundle", tmp_path_factory.mktemp("report") / "held")
    quiet = ["--quiet", "--json"]
    assert main(["build", str(path), "--precision", "fp16", "--engine", "none", *quiet]) == 0
    assert main(["split", str(path), "--plan", str(branches.plan), "--precision", "fp32", "--force", *quiet]) == 0
    with update_bundle(path) as draft:
        manifest = draft.manifest
        manifest.name = HOSTILE
        manifest.extra["warnings"] = [HOSTILE]
        manifest.extra["left_out"] = [{"precision": "int8", "reason": HOSTILE}]
        manifest.source["note"] = {HOSTILE: HOSTILE}
        manifest.parities.append({"step": HOSTILE, "output": HOSTILE, "status": f"failed: {HOSTILE}", "error": 1.0})
        manifest.extra["reparameterization"] = {
            "regions": 1,
            "left_alone": [f"COST: {HOSTILE}; do nothing"],
            "merged": [
                {"name": "stem", "modules": ["stem.conv", HOSTILE], "ops": 2, "kernel": [8, 3, 3, 3], "error": 1e-16}
            ],
        }
    return Bundle.open(path)
