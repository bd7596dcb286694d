"""`exporter models`: the catalogue, without torch."""

import json
import subprocess
import sys

from plainconv import models

COMMAND = (
    "import sys; from plainconv.exporter.cli.main import main; status = main(sys.argv[1:]); "
    "assert 'torch' not in sys.modules and 'onnx' not in sys.modules; sys.exit(status)"
)


def _listed(*arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", COMMAND, "models", *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return run.stdout


def test_json_lists_every_network() -> None:
    rows = json.loads(_listed("--json"))
    assert [row["name"] for row in rows] == list(models.entries())
    for row in rows:
        entry = models.find(row["name"])
        assert row["family"] == entry.family and row["input"] == list(entry.input_shape)
        assert (row["parameters"], row["parameters_plain"]) == (entry.params_training, entry.params_plain)


def test_table_has_a_row_for_each() -> None:
    lines = _listed().splitlines()
    assert all(any(line.strip().startswith(name) for line in lines) for name in models.entries())
