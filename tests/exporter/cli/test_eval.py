"""`exporter eval`, on images whose scores are known."""

import json
from pathlib import Path
from typing import Any

import image_bundles
import numpy as np
import pytest
from PIL import Image

from plainconv.exporter.cli.main import main

RED, GREEN, BLUE = np.eye(3, dtype=np.uint8) * 255


def save(pixels: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def scores(capsys: pytest.CaptureFixture[str], bundle: Path, images: Path, *options: str) -> Any:
    capsys.readouterr()
    assert main(["eval", str(bundle), "--images", str(images), "--json", "--quiet", *options]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [each["file"] for each in answer["evaluations"]] == ["model.onnx"]
    return answer["images"], answer["evaluations"][0]["scores"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four dark images and four bright ones, one of which lies in the wrong folder."""
    where = tmp_path_factory.mktemp("shades")
    image_bundles.named(where / "bundle")
    for i, (shade, name) in enumerate([(0, "dark")] * 4 + [(255, "bright")] * 3 + [(255, "dark")]):
        save(np.full((9, 9), shade, np.uint8), where / "images" / name / f"{i}.png")
    shades = np.array([0, 255, 255, 0], np.uint8)[:, None, None, None] * np.ones((1, 5, 5, 3), np.uint8)
    np.savez(where / "four.npz", images=shades, labels=np.array([0, 1, 0, 0]))
    return where


def test_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given seven of eight images in the right folder, three of four right labels -> top-1 of 7/8 and of 3/4."""
    bundle = folder / "bundle"
    assert scores(capsys, bundle, folder / "images") == (8, {"top-1": 7 / 8, "top-5": 1.0})
    assert scores(capsys, bundle, folder / "four.npz") == (4, {"top-1": 3 / 4, "top-5": 1.0})
    assert scores(capsys, bundle, folder / "four.npz", "--limit", "2") == (2, {"top-1": 1.0, "top-5": 1.0})
    assert main(["eval", str(bundle), "--images", str(folder / "four.npz"), "--quiet"]) == 0
    assert "0.7500" in capsys.readouterr().out


def test_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given an image, left red and right blue, whose mask has a green stripe -> the mean over its classes, by hand."""
    bundle = image_bundles.colours(tmp_path / "bundle")
    pixels = np.where(np.arange(16)[None, :, None] < 8, RED, BLUE) * np.ones((16, 1, 1), np.uint8)
    mask = np.where(np.arange(16) < 8, 0, 2) * np.ones((16, 1), np.uint8)
    mask[:, 4:8] = 1  # red pixels that are said to be green
    mask[8:, 8:] = 255  # and pixels that do not count
    save(pixels, tmp_path / "set" / "images" / "a.jpg".replace("jpg", "png"))
    save(mask.astype(np.uint8), tmp_path / "set" / "masks" / "a.png")
    wanted = (64 / 128 + 0 / 64 + 1) / 3
    found = scores(capsys, bundle, tmp_path / "set")
    assert found == (1, {"mIoU": pytest.approx(wanted), "pixels": pytest.approx(128 / 192)})
    np.savez(tmp_path / "one.npz", images=pixels[None], labels=mask.astype(np.int64)[None])
    assert scores(capsys, bundle, tmp_path / "one.npz") == found


@pytest.mark.parametrize(("names", "precision"), [(("all", "half"), 1.0), (("half", "all"), 0.1)])
def test_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str], names: Any, precision: float) -> None:
    """Given boxes where they are found, or those of the other class, which cover half -> AP of 1, of 1 at .5 alone."""
    pytest.importorskip("pycocotools")
    bundle = image_bundles.found(tmp_path / "bundle")
    save(np.zeros((20, 40, 3), np.uint8), tmp_path / "images" / "a.png")
    boxes = [[0, 0, 40, 20], [10, 0, 20, 20]]
    annotations = [{"id": i + 1, "image_id": 7, "category_id": 3 + i, "bbox": box} for i, box in enumerate(boxes)]
    categories = [{"id": 3 + i, "name": name} for i, name in enumerate(names)]
    data = {"images": [{"id": 7, "file_name": "a.png"}], "annotations": annotations, "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(data))
    images, found = scores(capsys, bundle, tmp_path / "truth.json")
    assert images == 1 and found == {"AP": pytest.approx(precision), "AP50": pytest.approx(1)}


def test_what_is_not_labelled_so(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given images of another kind, none, or wrong files -> one line, exit code 2."""
    (tmp_path / "empty").mkdir()
    save(np.zeros((4, 4), np.uint8), tmp_path / "strange" / "violet" / "a.png")
    (tmp_path / "bad.json").write_text('{"images": [{"id": 1}]}')
    (tmp_path / "gone.json").write_text(
        '{"images": [{"id": 1, "file_name": "no.png"}], "annotations": [], "categories": []}'
    )
    np.savez(tmp_path / "floats.npz", images=np.zeros((1, 4, 4, 3)), labels=np.zeros(1, int))
    np.savez(tmp_path / "masks.npz", images=np.zeros((1, 4, 4, 3), np.uint8), labels=np.zeros((1, 4, 4), int))
    for name, said in {
        "nothing": "wanted a folder of one folder a class",
        "empty": "has no image",
        "strange": "violet is no class of the bundle, which has dark, bright",
        "bad.json": "KeyError: 'file_name'; wanted COCO's images",
        "gone.json": "no.png is not there; put the images beside it",
        "floats.npz": "images and labels are float64 [1, 4, 4, 3]",
        "masks.npz": "is to segment, the bundle's network does classify",
    }.items():
        assert main(["eval", str(folder / "bundle"), "--images", str(tmp_path / name), "--quiet"]) == 2
        assert said in capsys.readouterr().err


def test_several_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given rows of two inputs by name, a network that turns its scores where `b` is −1 -> top-1 of three in four."""
    bundle = image_bundles.two_inputs(tmp_path / "bundle")
    a = np.array([[1, 2, 3], [3, 2, 1], [1, 3, 2], [1, 2, 3]], np.float64)
    np.savez(tmp_path / "rows.npz", a=a, b=np.array([[1], [1], [1], [-1]]), labels=np.array([2, 0, 1, 2]))
    assert scores(capsys, bundle, tmp_path / "rows.npz") == (4, {"top-1": 3 / 4, "top-5": 1.0})
    assert scores(capsys, bundle, tmp_path / "rows.npz", "--limit", "3")[1]["top-1"] == 1.0


def test_masks_of_several_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given a map of 4 × 4 and masks of 8 × 8, of which one row is another class -> mIoU by hand."""
    bundle = image_bundles.two_inputs(tmp_path / "bundle", (3, 4, 4), "segment")
    a = np.zeros((1, 3, 4, 4), np.float32)
    a[:, 1] = 1
    masks = np.ones((1, 8, 8), np.int64)
    masks[0, 0] = 2
    np.savez(tmp_path / "rows.npz", a=a, b=np.ones((1, 1, 1, 1), np.int64), labels=masks)
    found = scores(capsys, bundle, tmp_path / "rows.npz")
    assert found == (1, {"mIoU": pytest.approx(56 / 64 / 2), "pixels": pytest.approx(56 / 64)})


A, B, LABELS = np.zeros((2, 3), np.float32), np.zeros((2, 1), np.int64), np.zeros(2, np.int64)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"a": A, "labels": LABELS}, "holds ['a', 'labels'], wants a and b and labels; lacks b"),
        ({"a": A, "b": B}, "lacks labels"),
        ({"a": A[:, :2], "b": B, "labels": LABELS}, "a are [2, 2], want [n, 3] as the network takes them"),
        ({"a": A[:, 0], "b": B, "labels": LABELS}, "a are [2], want [n, 3] as the network takes them"),
        ({"a": A, "b": B + 0.5, "labels": LABELS}, "b are float64, wanted int64 as the network takes them"),
        ({"a": A, "b": B[:1], "labels": LABELS}, "b has 1 rows, labels 2; wanted one of each"),
        ({"a": A * np.nan, "b": B, "labels": LABELS}, "a are not all finite, want finite numbers"),
        ({"a": A, "b": B, "labels": LABELS + 0.5}, "labels are float64 [2], wanted whole numbers [n], or masks"),
        ({"a": A, "b": B, "labels": np.zeros((2, 4, 4), int)}, "is to segment, the bundle's network does classify"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arrays: dict[str, np.ndarray], said: str
) -> None:
    bundle = image_bundles.two_inputs(tmp_path / "bundle")
    np.savez(tmp_path / "rows.npz", **arrays)
    assert main(["eval", str(bundle), "--images", str(tmp_path / "rows.npz")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_what_several_inputs_have_no_eval_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given a folder of images, an input without a batch axis -> one line each."""
    bundle, fixed = image_bundles.two_inputs(tmp_path / "a"), image_bundles.two_inputs(tmp_path / "b", fixed=True)
    for path, images, said in (
        (bundle, tmp_path, "the network takes 2 inputs; wanted an .npz of a, b, as it takes them, and labels"),
        (fixed, tmp_path / "x.npz", "the input gain has no batch axis"),
    ):
        assert main(["eval", str(path), "--images", str(images)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert said in line
