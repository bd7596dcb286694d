"""What is known of the images that a network was trained on: its preprocessing, and the names of its classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..bundle import Preprocessing, strict_json
from ..bundle.presets import Recipe, fitted
from ..errors import SourceError
from ..reading import TooLargeError, read_at_most

MOST_CLASSES = 100_000
_MOST_FILE = 2**24
_RULES = {"center": "shortest", "squash": "exact"}  # timm's words for how an image is cut


def fitted_to(recipe: Recipe | None, example: Tensor) -> Preprocessing | None:
    """What a network was evaluated with, at the size of its input; None where that has other channels."""
    if recipe is None or example.dim() != 4 or example.shape[1] != len(recipe["mean"]):
        return None
    try:
        return fitted(recipe, example.shape[2], example.shape[3], str(example.dtype).removeprefix("torch."))
    except ValueError:  # sizes of a side that no image has
        return None


def timm_recipe(config: Mapping[str, Any]) -> Recipe | None:
    """What timm evaluates a network with; None where it cuts images in a way of its own."""
    rule, way = _RULES.get(config.get("crop_mode") or "center"), config.get("interpolation") or "bicubic"
    mean, std = config.get("mean"), config.get("std")
    if rule is None or way not in ("bilinear", "bicubic", "nearest") or not mean or not std or len(mean) != 3:
        return None
    share = float(config.get("crop_pct") or 0.875)
    unit = {"color": "rgb", "scale": 1 / 255, "mean": list(mean), "std": list(std)}
    return {**unit, "rule": rule, "interpolation": way, "share": share}


def classes_given(given: "str | Path | Sequence[str] | None") -> tuple[str, ...]:
    """The names of classes: `a,b,c`, a file of one a line, or a JSON file, a list or an object from "0" on.

    Raises SourceError, in one line, where it is none of these, or a name is empty.
    """
    if given is None:
        return ()
    if not isinstance(given, str | Path):
        names: Any = list(given)
    elif isinstance(given, str) and not Path(given).is_file() and ("," in given or not Path(given).suffix):
        names = [part.strip() for part in given.split(",")]
    else:
        names = _names_in(Path(given))
    if isinstance(names, dict) and list(names) == [str(number) for number in range(len(names))]:
        names = list(names.values())
    where = f"--classes {given}" if isinstance(given, str | Path) else "classes"
    if not isinstance(names, list) or not 1 <= len(names) <= MOST_CLASSES:
        raise SourceError(f"{where}: there are no names; wanted a,b,c, a file of one a line, or a JSON list")
    if not all(isinstance(name, str) and name.strip() and name.isprintable() for name in names):
        bad = next(
            i for i, name in enumerate(names) if not (isinstance(name, str) and name.strip() and name.isprintable())
        )
        raise SourceError(f"{where}: class {bad} has no name that can be shown; give each one")
    return tuple(names)


def _names_in(path: Path) -> Any:
    try:
        raw = read_at_most(path, _MOST_FILE)
    except TooLargeError as error:
        raise SourceError(f"--classes {path} is {error.strerror}; wanted one name a line") from None
    except OSError as error:
        raise SourceError(f"--classes {path} cannot be read ({error.strerror}); wanted one name a line") from None
    try:
        if path.suffix == ".json":
            return strict_json.parse(raw)
        return [line.strip() for line in raw.decode("utf-8-sig").rstrip().splitlines()]
    except ValueError as error:
        raise SourceError(f"--classes {path} is not what its name says ({error}); wanted one name a line") from None
