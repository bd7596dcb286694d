"""What fp16 and int8 make of the ONNX files of other projects on photos: layers kept wider, and the answers.

python tests/benchmarks/table_photos.py --photos FOLDER 320n.onnx open-nsfw.onnx ch_PP-OCRv4_det_infer.onnx

FOLDER holds photos as .png and .jpg, in order: of every two the first is calibrated on (in five cuts), the second is
what the answers are compared on (likewise). A file is read as its project reads photos, by its name: see `RECIPES`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

HEAD = (
    "| file | precision | layers in it | kept wider | parity | engine | what the answers do on photos |\n"
    "|---|---|---|---|---|---|---|"
)
Pixels = np.ndarray
"""[H, W, 3], RGB, bytes."""


def boxes_agree(wanted: np.ndarray, found: np.ndarray) -> str:
    """Detections of nudenet, [images, 4 + classes, n]: the class of each place over .2, and the largest scores."""
    w, f = wanted[:, 4:], found[:, 4:]
    sure, claimed = w.max(axis=1) >= 0.2, f.max(axis=1) >= 0.2
    same = (w.argmax(axis=1) == f.argmax(axis=1))[sure & claimed]
    off = np.abs(w.max(axis=(1, 2)) - f.max(axis=(1, 2)))
    places = f"{(sure & claimed).sum()} of {sure.sum()} places over .2, and {(claimed & ~sure).sum()} more"
    moved = np.abs(wanted[:, :4] - found[:, :4]).max(axis=1)[sure & claimed]
    shift = f"boxes off by {np.median(moved):.1f} px (median)" if moved.size else "no boxes"
    return f"{places}; class as in fp32 in {same.sum()} of {same.size}; {shift}; largest score off by {off.max():.3f}"


def scores_agree(wanted: np.ndarray, found: np.ndarray) -> str:
    """Probabilities [images, 2]."""
    same = (wanted.argmax(axis=1) == found.argmax(axis=1)).sum()
    return f"class as in fp32 on {same} of {len(wanted)}; scores off by at most {np.abs(wanted - found).max():.3f}"


def maps_agree(wanted: np.ndarray, found: np.ndarray) -> str:
    """Maps of text [images, 1, H, W], text where they are over .3."""
    w, f = wanted > 0.3, found > 0.3
    union = (w | f).sum()
    share = f"{(w & f).sum() / union:.3f}" if union else "–"
    return f"text maps: intersection over union {share}; {(w != f).mean():.2%} of the pixels differ"


@dataclass(frozen=True)
class Recipe:
    """How a project feeds its file: the shape of the input, pixels of that size → array, and what compares answers."""

    shape: tuple[int, ...]
    size: int
    array: Callable[[Pixels], np.ndarray]
    agreement: Callable[[np.ndarray, np.ndarray], str]


def _planes(pixels: Pixels) -> np.ndarray:
    return pixels.astype(np.float32).transpose(2, 0, 1)


RECIPES = {
    "320n": Recipe((1, 3, 320, 320), 320, lambda p: _planes(p[..., ::-1]) / 255, boxes_agree),
    "open-nsfw": Recipe(
        (1, 224, 224, 3), 224, lambda p: p[..., ::-1] - np.array([104, 117, 123], np.float32), scores_agree
    ),
    "ch_PP-OCRv4_det_infer": Recipe((1, 3, 320, 320), 320, lambda p: _planes(p) / 127.5 - 1, maps_agree),
}


def cuts_of(path: Path, size: int) -> list[Pixels]:
    """A photo as a whole, and its four quarters, each a square of `size`."""
    photo = Image.open(path).convert("RGB")
    w, h = photo.size
    boxes = [(0, 0, w, h), *((x, y, x + w // 2, y + h // 2) for x in (0, w // 2) for y in (0, h // 2))]
    return [np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR, box=box)) for box in boxes]


def rows(path: Path, photos: Path, engine: str) -> list[str]:
    """Export with both precisions, and compare their graphs with that of fp32 in ONNX Runtime."""
    recipe = RECIPES[path.stem]
    files = sorted([*photos.glob("*.png"), *photos.glob("*.jpg")])
    calibrated, held = (
        np.stack([recipe.array(cut) for photo in files[k::2] for cut in cuts_of(photo, recipe.size)]).astype(np.float32)
        for k in (0, 1)
    )
    with tempfile.TemporaryDirectory() as folder:
        images, bundle = Path(folder) / "images.npz", Path(folder) / "bundle"
        np.savez(images, images=calibrated)
        shape = ",".join(str(n) for n in recipe.shape)
        command = ["run", str(path), "--input-shape", shape, "--precision", "fp32,fp16,int8", "--engine", engine]
        done = _exporter(*command, "--calibration", str(images), "-o", str(bundle), "--json")
        if not done:
            return [f"| {path.stem} | refused |"]
        wanted = _answers(bundle / "model.onnx", held)
        return [_row(path.stem, graph, done, wanted, bundle, held, recipe) for graph in done["graphs"]]


def _row(
    name: str,
    graph: dict[str, Any],
    done: dict[str, Any],
    wanted: np.ndarray,
    bundle: Path,
    held: np.ndarray,
    recipe: Recipe,
) -> str:
    layers, kept = sum(graph["layers"].values()), len(graph["kept"])
    parities = [p for p in done["parities"] if p.get("file") == graph["file"]]
    engines = [e for e in done["engines"] if e["precision"] == graph["precision"]]
    cells = [
        name,
        graph["precision"],
        f"{layers - kept} of {layers}",
        str(kept),
        "; ".join(f"{p['error']:.3f} of {p['tolerance']:.2f} {p['status']}" for p in parities),
        f"{engines[0]['size'] / 1e6:.1f} MB" if engines else "–",
        recipe.agreement(wanted, _answers(bundle / graph["file"], held)),
    ]
    return f"| {' | '.join(cells)} |"


def _answers(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (spec, *_), dtype = session.get_inputs(), np.float16 if "16" in session.get_inputs()[0].type else np.float32
    each = [session.run(None, {spec.name: image[None].astype(dtype)})[0] for image in images]
    return np.concatenate(each).astype(np.float64)


def _exporter(*arguments: str) -> dict[str, Any]:
    """What it prints as JSON; nothing where it failed, its words on stderr."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("exporter")), *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    return dict(json.loads(done.stdout)) if done.stdout else {}


def main() -> None:
    """Print the table, a file's rows as soon as they are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.onnx")
    parser.add_argument("--photos", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--engine", default="none", help="as of `exporter run`; none by default")
    args = parser.parse_args()
    print(HEAD, flush=True)
    for path in args.files:
        print("\n".join(rows(path, args.photos, args.engine)), flush=True)


if __name__ == "__main__":
    main()
