"""`exporter predict`, and what `export` says of images."""

import argparse
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from places import ASSETS

from plainconv import engines
from plainconv.exporter.bundle import Bundle
from plainconv.exporter.cli.main import main

WEIGHTS = ASSETS / "vanillanet_digits.pth"
NAMES = "zero,one,two,three,four,five,six,seven,eight,nine"
EXPORT = ("export", "vanillanet_digits", "--checkpoint", str(WEIGHTS), "--skip-end-to-end", "--quiet")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("predict") / "digits"
    assert main([*EXPORT, "-o", str(target), "--classes", NAMES, "--postprocess", "classify:3", "--json"]) == 0
    return target


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, int]]:
    """Held-out digits as PNG files, and what they are."""
    folder = tmp_path_factory.mktemp("digits")
    with np.load(ASSETS / "digits_heldout.npz") as held_out:
        shades, labels = held_out["images"][:4, 0], held_out["labels"][:4]
    pixels = np.clip(np.rint((shades * 0.4 + 0.3) * 255), 0, 255).astype(np.uint8)
    for i, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{i}.png")
    return [(folder / f"{i}.png", int(label)) for i, label in enumerate(labels)]


def test_what_an_image_is(bundle: Path, images: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Given images -> the names of their digits, on the command line, as JSON, and in Python: the same."""
    paths = [str(path) for path, _ in images]
    assert main(["predict", str(bundle), *paths, "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["predictions"][0]["label"] for each in found] == [NAMES.split(",")[label] for _, label in images]
    assert [len(each["predictions"]) for each in found] == [3] * 4
    with engines.load(bundle, "onnxruntime") as net:
        for each in found:
            data = Path(each["image"]).read_bytes()
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            for source in (each["image"], data, Image.open(io.BytesIO(data)), pixels):
                assert [answer.as_json() for answer in net.predict(source)] == each["predictions"]
    assert main(["predict", str(bundle), paths[0], "--quiet"]) == 0
    first = found[0]["predictions"][0]
    assert capsys.readouterr().out.splitlines()[1] == f"  {first['score']:.4f}  {first['label']}"


def test_it_is_drawn(bundle: Path, images: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "marked.png"
    assert main(["predict", str(bundle), str(images[0][0]), "--draw", str(target), "--quiet"]) == 0
    marked, plain = (np.asarray(Image.open(path).convert("RGB")) for path in (target, images[0][0]))
    assert marked.shape == plain.shape and (marked != plain).any()
    capsys.readouterr()
    for bad in ([str(images[0][0]), str(images[1][0]), "--draw", str(target)], [str(images[0][0]), "--draw", "a.txt"]):
        assert main(["predict", str(bundle), *bad, "--quiet"]) == 2
        assert "wanted one IMAGE, and a file that ends in .png or .jpg" in capsys.readouterr().err


def test_a_bad_image_leaves_the_others(
    bundle: Path, images: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given one file that is no image and one that is not there -> the others' answers, one line, exit code 2."""
    (tmp_path / "a.png").write_text("no image")
    paths = [str(tmp_path / "a.png"), str(images[0][0]), str(tmp_path / "b.png")]
    assert main(["predict", str(bundle), *paths, "--json", "--quiet"]) == 2
    said = capsys.readouterr()
    assert [each["image"] for each in json.loads(said.out)] == [paths[1]]
    assert said.err == (
        f"exporter: {paths[0]} is no image that can be read; give one of PNG, JPEG, WEBP, GIF, BMP "
        "(and 1 more images)\n"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--classes", "a,b"], "--classes has 2 names, the network tells 10 classes apart; give as many"),
        (["--classes", "missing.txt"], "--classes missing.txt cannot be read (No such file or directory)"),
        (["--classes", "a,,b"], "--classes a,,b: class 1 has no name that can be shown"),
        (
            ["--preprocessing", "yolo"],
            "preprocessing gives float32[batch, 3, 640, 640], the network takes input",
        ),
        (["--preprocessing", "mine"], "--preprocessing mine: there is no such preset"),
        (
            ["--postprocess", "segment"],
            "the network gives logits float32[1, 10]; wanted an output",
        ),
        (["--postprocess", "boxes"], "--postprocess boxes: wanted classify[:k], segment"),
    ],
)
def test_what_does_not_fit(options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given what no such network has -> one line, exit code 2, and no bundle."""
    assert main([*EXPORT, "-o", str(tmp_path / "b"), *options]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "b").exists()


def test_names_of_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given a checkpoint that names its classes, and --preprocessing none -> both are in it; predict refuses."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(WEIGHTS, weights_only=True)
    torch.save({**content, "names": dict(enumerate(NAMES.split(",")))}, tmp_path / "named.pth")
    job = ["export", "vanillanet_digits", "--checkpoint", str(tmp_path / "named.pth"), "--skip-end-to-end", "--quiet"]
    assert main([*job, "-o", str(tmp_path / "b"), "--preprocessing", "none", "--json"]) == 0
    manifest = Bundle.open(tmp_path / "b").manifest
    assert manifest.classes == tuple(NAMES.split(",")) and manifest.preprocessing is None
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "b"), "x.png", "--quiet"]) == 2
    assert "the bundle says not how an image becomes its input; export it with --pre" in capsys.readouterr().err
