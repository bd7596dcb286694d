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
