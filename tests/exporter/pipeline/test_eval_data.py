"""Labelled images that steps are judged on: boxes, masks, classes; as the network takes them, or as files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from plainconv.exporter.bundle.presets import preprocessing_given
from plainconv.exporter.errors import SourceError
from plainconv.exporter.pipeline.eval_data import judges_of
from plainconv.exporter.source.network import Network

BYTES = {"resize": {"rule": "exact", "size": [4, 6], "interpolation": "nearest"}, "scale": 1 / 255}
COUNT = 5


class Same(nn.Module):
    """Its images are its outputs; `rows` flattens them to a detector's."""

    def __init__(self, *, rows: bool = False, mean: bool = False) -> None:
        super().__init__()
        self.rows, self.mean = rows, mean

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → the same, [N, C, H·W], or [N, C]."""
        return x.flatten(2) if self.rows else x.mean((2, 3)) if self.mean else x


def network_of(module: nn.Module, shape: tuple[int, ...], preprocessing: Any = None) -> Network:
    wanted = preprocessing_given(preprocessing)
    return Network("net", module, {"x": torch.zeros(1, *shape)}, wanted, {}, "0" * 64, returns=("y",))


def run_of(module: nn.Module) -> Any:
    return lambda x: [module(torch.from_numpy(x)).numpy()]


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def colours() -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 3, 4, 6], of each pixel of which one channel is brightest; which one."""
    masks = np.random.default_rng(0).integers(0, 3, (COUNT, 4, 6))
    return np.moveaxis(np.eye(3, dtype=np.float32)[masks], 3, 1), masks


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_masks_as_the_network_takes_them(tmp_path: Path, batch: int) -> None:
    """Given masks -> mIoU of 1 of the network; of one that takes two classes for each other as by hand, refused."""
    images, masks = colours()
    network = network_of(Same(), (3, 4, 6))
    judges = judges_of(network, saved(tmp_path / "m.npz", images=images, masks=masks), "segment", None)
    assert judges is not None and np.array_equal(judges.of_inputs(["x"])["x"], images)
    right = judges.count(run_of(Same()), batch)
    assert right.scores == {"mIoU": 1.0, "pixels": 1.0}
    swapped = judges.count(lambda x: [x[:, [0, 2, 1]]], batch)
    assert swapped.scores["mIoU"] == pytest.approx(1 / 3)
    for is_lossy, said in ((True, "may lose at most 0.01"), (False, "may move it by at most 0.001")):
        record = swapped.beside(right, "ONNX int8", is_lossy=is_lossy)
        assert not record and f"the network before has mIoU 1.0000, and a step {said}; " in str(record)
        assert record.as_json() == {"scores": swapped.scores, "images": COUNT}
        assert right.beside(right, "ONNX", is_lossy=is_lossy)
    assert right.beside(swapped, "int8", is_lossy=True) and not right.beside(swapped, "ONNX", is_lossy=False)


def test_what_is_no_number_is_worth_nothing(tmp_path: Path) -> None:
    images, masks = colours()
    path = saved(tmp_path / "m.npz", images=images, labels=masks)
    judges = judges_of(network_of(Same(), (3, 4, 6)), path, "segment", None)
    assert judges is not None and judges.count(lambda x: [x * np.nan], 2).scores["mIoU"] == 0


def test_boxes_as_the_network_takes_them(tmp_path: Path) -> None:
    """Given boxes with labels, fewer in some images -> AP of 1; of scores turned around, of boxes moved less."""
    pytest.importorskip("pycocotools")
    rows = np.zeros((COUNT, 6, 20, 30), np.float32)
    boxes, labels = np.zeros((COUNT, 3, 4), np.float32), np.full((COUNT, 3), -1)
    for i in range(COUNT):
        for k in range(1 + i % 3):
            boxes[i, k] = [9 * k, 2, 9 * k + 7, 12 + i]
            labels[i, k] = (i + k) % 2
            rows[i, :4, 0, k] = boxes[i, k]
            rows[i, 4 + labels[i, k], 0, k] = 0.9 - 0.1 * k
    path = saved(tmp_path / "b.npz", images=rows, boxes=boxes, labels=labels)
    judges = judges_of(network_of(Same(rows=True), (6, 20, 30)), path, "detect:,,,xyxy", ["a", "b"])
    assert judges is not None
    right = judges.count(run_of(Same(rows=True)), 2)
    assert right.scores == {"AP": pytest.approx(1), "AP50": pytest.approx(1)} and right.images == COUNT
    turned = judges.count(lambda x: [x[:, [0, 1, 2, 3, 5, 4]].reshape(len(x), 6, -1)], 2)
    assert turned.scores["AP"] < 0.5 and not turned.beside(right, "int8", is_lossy=True)
    moved = judges.count(lambda x: [(x + np.float32([1, 1, 1, 1, 0, 0])[:, None, None]).reshape(len(x), 6, -1)], 2)
    assert moved.scores["AP50"] == pytest.approx(1) and moved.scores["AP"] < 0.9


def test_files_go_through_the_preprocessing(tmp_path: Path) -> None:
    """Given a folder a class, an .npz of bytes, images beside masks -> as `eval` reads them; of classes, each image."""
    shades = np.zeros((3, 8, 12, 3), np.uint8)
    for i in range(3):
        shades[i, ..., i] = 255
        (tmp_path / "set" / "rgb"[i]).mkdir(parents=True)
        Image.fromarray(shades[i]).save(tmp_path / "set" / "rgb"[i] / "a.png")
    network = network_of(Same(mean=True), (3, 4, 6), BYTES)
    for path in (tmp_path / "set", saved(tmp_path / "c.npz", images=shades, labels=np.arange(3))):
        judges = judges_of(network, path, "classify", ["r", "g", "b"])
        assert judges is not None and judges.of_inputs(["x"])["x"].shape == (3, 3, 4, 6)
        right = judges.count(run_of(Same(mean=True)), 2)
        wrong = judges.count(lambda x: [x[:, [0, 2, 1]].mean((2, 3))], 2)
        assert right.right.all() and wrong.right.sum() == 1
        assert not wrong.beside(right, "int8", is_lossy=True)
    masks = np.repeat(np.arange(3)[:, None, None], 8, 1).repeat(12, 2)
    path = saved(tmp_path / "m.npz", images=shades, labels=masks)
    judges = judges_of(network_of(Same(), (3, 4, 6), BYTES), path, "segment", None)
    assert judges is not None and judges.count(run_of(Same()), 2).scores["mIoU"] == 1


@pytest.mark.parametrize(
    ("arrays", "postprocess", "said"),
    [
        ({"images": np.zeros((2, 6, 4, 6)), "labels": np.zeros((2, 3), int)}, "detect", "lacks boxes; wants images"),
        ({"images": np.zeros((2, 6, 4, 6))}, "segment", "lacks labels; wants images, masks"),
        ({"images": np.zeros((2, 6, 4, 5)), "masks": np.zeros((2, 4, 6), int)}, "segment", "want [n, 6, 4, 6]"),
        ({"images": np.zeros((2, 6, 4, 6)), "masks": np.zeros((2, 4, 5), int)}, "segment", "want whole numbers [n, 4"),
        ({"images": np.zeros((2, 6, 4, 6)), "masks": np.zeros((3, 4, 6), int)}, "segment", "rows are images 2, masks"),
        (
            {"images": np.zeros((2, 6, 4, 6)), "boxes": np.full((2, 1, 4), np.nan), "labels": np.zeros((2, 1), int)},
            "detect",
            "want numbers [n, K, 4] and whole ones [n, K]",
        ),
        ({"images": np.zeros((2, 6, 4, 6)), "labels": np.zeros((2, 4, 6), int)}, None, "give --postprocess detect or"),
    ],
)  # fmt: skip
def test_what_does_not_fit(tmp_path: Path, arrays: dict[str, Any], postprocess: str | None, said: str) -> None:
    """Given arrays that are missing, of another shape or number, or no numbers -> which, in one line."""
    pytest.importorskip("pycocotools")
    network = network_of(Same(rows=postprocess == "detect"), (6, 4, 6))
    with pytest.raises(SourceError) as caught:
        judges_of(network, saved(tmp_path / "bad.npz", **arrays), postprocess, None)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_files_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "set" / "0").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "set" / "0" / "a.png")
    for preprocessing, postprocess, said in (
        (BYTES, "segment", "is to classify, the network does segment"),
        (None, "segment", "the network says not how an image becomes its input; give --preprocessing"),
    ):
        with pytest.raises(SourceError, match=said):
            judges_of(network_of(Same(), (3, 4, 6), preprocessing), tmp_path / "set", postprocess, None)
