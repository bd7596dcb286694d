"""Images with what is on them: folders of classes, images beside masks, .npz files, and COCO's JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import TensorSpec
from ..errors import SourceError
from ..onnx_file.type_names import dtype_of
from ..parity.accuracy import arrays_of_npz, check_images
from ..reading import read_at_most

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
_MOST_FILE = 2**30
IGNORED = 255
"""Of a mask: a pixel that does not count."""
_WANTED = "a folder of one folder a class, of images/ and masks/, an .npz of images and labels, or COCO's .json"


@dataclass(frozen=True)
class Labelled:
    """Images, as `predict` takes them, and of each its class, its mask [height, width], or COCO's number of it.

    Of a network with several inputs an image is a row of each, by name, as the network takes it. `kind` is what they
    ask of a network: classify, segment or detect. `coco` is the file's content.
    """

    kind: str
    images: Sequence[Any]
    truths: Sequence[Any]
    coco: dict[str, Any] = field(default_factory=dict)


def labelled(path: Path, classes: Sequence[str], most: int | None = None) -> Labelled:
    """What is at `path`, at most so many images of it. Raises SourceError, in one line, where it is none of these."""
    if path.is_dir():
        found = _masks(path) if (path / "images").is_dir() and (path / "masks").is_dir() else _folders(path, classes)
    elif path.suffix == ".npz":
        found = _arrays(path)
    elif path.suffix == ".json":
        found = _coco(path)
    else:
        raise SourceError(f"{path}: wanted {_WANTED}")
    if not found.images:
        raise SourceError(f"{path} has no image; wanted {_WANTED}")
    return Labelled(found.kind, found.images[:most], found.truths[:most], found.coco)


def labelled_rows(path: Path, inputs: Sequence[TensorSpec], kind: str, most: int | None = None) -> Labelled:
    """For a network with several inputs: an array of each one's name, as it takes them, and labels or masks.

    `kind` is what the network does. Raises SourceError, in one line, where it is no .npz of these, or they do not fit
    the inputs or each other.
    """
    names = tuple(spec.name for spec in inputs)
    if kind == "detect":
        raise SourceError(f"boxes are evaluated on COCO's images, one each; the network takes {', '.join(names)}")
    if path.suffix != ".npz":
        wanted = f"an .npz of {', '.join(names)}, as it takes them, and labels"
        raise SourceError(f"--images {path}: the network takes {len(names)} inputs; wanted {wanted}")
    batch = next((spec.shape[0] for spec in inputs if len(spec.shape) > 1), None)
    fixed = next((spec.name for spec in inputs if not spec.shape or spec.shape[0] != batch), None)
    if fixed is not None:
        raise SourceError(f"--images counts rows, and the input {fixed} has no batch axis; this network has no eval")
    arrays = arrays_of_npz(path, (*names, "labels"))
    labels = arrays.pop("labels")
    for spec in inputs:
        x, dtype = arrays[spec.name], dtype_of(spec.dtype)
        sizes = (size if isinstance(size, int) else have for size, have in zip(spec.shape, x.shape, strict=False))
        check_images(path, x, (*tuple(sizes)[1:], *spec.shape[x.ndim :]), spec.name)  # type: ignore[arg-type]
        if x.dtype.kind == "f" and dtype.kind in "iub":
            raise SourceError(f"{path.name}: {spec.name} are {x.dtype}, wanted {spec.dtype} as the network takes them")
        arrays[spec.name] = x.astype(dtype, copy=False)
        if len(x) != len(labels):
            raise SourceError(f"{path.name}: {spec.name} has {len(x)} rows, labels {len(labels)}; wanted one of each")
    rows = [{name: x[i] for name, x in arrays.items()} for i in range(len(labels))]
    return Labelled(_kind_of(path, labels), rows[:most], list(labels)[:most])


def _folders(path: Path, classes: Sequence[str]) -> Labelled:
    """A folder a class: by its name where the bundle names classes, else in the order of the names."""
    folders = sorted(each for each in path.iterdir() if each.is_dir())
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [each.name for each in folders if each.name not in numbers and not each.name.isdecimal()]
    if classes and unknown:
        raise SourceError(f"{path}: {unknown[0]} is no class of the bundle, which has {', '.join(classes[:5])}…")
    images, truths = [], []
    for place, folder in enumerate(folders):
        number = numbers.get(folder.name, int(folder.name) if folder.name.isdecimal() and classes else place)
        for image in _images_in(folder):
            images.append(image)
            truths.append(number)
    return Labelled("classify", images, truths)


def _masks(path: Path) -> Labelled:
    from plainconv.engines.predict.images import numbers_of

    images = _images_in(path / "images")
    missing = [each for each in images if not (path / "masks" / f"{each.stem}.png").is_file()]
    if missing:
        raise SourceError(f"{path}: masks/{missing[0].stem}.png is missing; wanted one of each image")
    return Labelled("segment", images, [numbers_of(path / "masks" / f"{each.stem}.png") for each in images])


def _arrays(path: Path) -> Labelled:
    arrays = arrays_of_npz(path, ("images", "labels"))
    images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) != len(labels):
        found = f"{images.dtype} {list(images.shape)} and {labels.dtype} {list(labels.shape)}"
        raise SourceError(
            f"{path.name}: images and labels are {found}, wanted uint8 [n, height, width, 3] and one each"
        )
    kind = _kind_of(path, labels)
    if labels.ndim == 3 and labels.shape[1:] != images.shape[1:3]:
        raise SourceError(f"{path.name}: masks are {list(labels.shape[1:])}, images {list(images.shape[1:3])}")
    return Labelled(kind, list(images), list(labels))


def _kind_of(path: Path, labels: np.ndarray) -> str:
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 3):
        found = f"{labels.dtype} {list(labels.shape)}"
        raise SourceError(f"{path.name}: labels are {found}, wanted whole numbers [n], or masks [n, height, width]")
    return "classify" if labels.ndim == 1 else "segment"


def _coco(path: Path) -> Labelled:
    """The images lie beside the file, in images/ beside it, or in the folder beside it that is named like it."""
    try:
        data = json.loads(read_at_most(path, _MOST_FILE))
        entries = [(int(each["id"]), str(each["file_name"])) for each in data["images"]]
        _ = [(each["image_id"], each["category_id"], each["bbox"]) for each in data["annotations"]]
        _ = [(each["id"], each["name"]) for each in data["categories"]]
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}); wanted COCO's .json") from None
    except (ValueError, KeyError, TypeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise SourceError(f"{path}: {said:.100}; wanted COCO's images, annotations and categories") from None
    folders = (path.parent, path.parent / "images", path.with_suffix(""))
    files = [next((f / name for f in folders if (f / name).is_file()), None) for _, name in entries]
    for (_, name), file in zip(entries, files, strict=True):
        if file is None:
            raise SourceError(f"{path}: {name} is not there; put the images beside it, or into images/")
    return Labelled("detect", files, [number for number, _ in entries], data)


def _images_in(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.suffix.lower() in ENDINGS)
