from pathlib import Path

import numpy as np
import pytest

from plainconv.exporter.errors import SourceError
from plainconv.exporter.parity import accuracy, correctness, read_eval_data


def scores_of_sum(images: np.ndarray) -> list[np.ndarray]:
    """Class 1 where the image's sum is positive."""
    total = images.reshape(len(images), -1).sum(axis=1)
    return [np.stack([-total, total], axis=1)]


def write(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def data(tmp_path: Path, n: int = 7) -> Path:
    images = np.random.default_rng(0).standard_normal((n, 1, 2, 2)).astype(np.float32)
    labels = (images.sum((1, 2, 3)) > 0).astype(np.int64)
    labels[0] ^= 1  # one that the network gets wrong
    return write(tmp_path / "data.npz", images=images, labels=labels)


@pytest.mark.parametrize("batch", [1, 2, 7, 16])
def test_accuracy_counts_every_image_once_whatever_the_batch(tmp_path: Path, batch: int) -> None:
    right = correctness(scores_of_sum, read_eval_data(data(tmp_path), (1, 2, 2)), batch)
    record = accuracy("eager", right)
    assert (record.correct, record.images, record.changed) == (6, 7, 0)
    assert record


def test_one_changed_image_is_a_failure_even_at_the_same_accuracy(tmp_path: Path) -> None:
    before = correctness(scores_of_sum, read_eval_data(data(tmp_path), (1, 2, 2)), 1)
    after = before.copy()
    after[0], after[1] = before[1], before[0]
    record = accuracy("onnx", after, before)
    assert record.correct == accuracy("eager", before).correct
    assert not record
    assert "2 images differ" in str(record)


def test_scores_that_are_nan_are_not_correct(tmp_path: Path) -> None:
    held = read_eval_data(data(tmp_path), (1, 2, 2))
    right = correctness(lambda x: [np.full((len(x), 2), np.nan)], held, 2)
    assert not right.any()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 1, 2, 2))}, "lacks labels"),
        ({"images": np.zeros((2, 1, 3, 3)), "labels": np.zeros(2, int)}, r"want \[n, 1, 2, 2\]"),
        ({"images": np.zeros((0, 1, 2, 2)), "labels": np.zeros(0, int)}, r"want \[n, 1, 2, 2\]"),
        ({"images": np.zeros((2, 1, 2, 2)), "labels": np.zeros(3, int)}, "one integer for each of 2 images"),
        ({"images": np.zeros((2, 1, 2, 2)), "labels": np.zeros(2)}, "one integer for each of 2 images"),
        ({"images": np.array([None, {}]), "labels": np.zeros(2, int)}, "write it with numpy.savez"),
    ],
)
def test_data_that_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(SourceError, match=message) as raised:
        read_eval_data(write(tmp_path / "bad.npz", **arrays), (1, 2, 2))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_missing_empty_or_cut_short_is_refused(tmp_path: Path) -> None:
    whole = data(tmp_path).read_bytes()
    for name, content in (("empty.npz", b""), ("cut.npz", whole[: len(whole) // 2]), ("text.npz", b"images")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError):
            read_eval_data(tmp_path / name, (1, 2, 2))
    with pytest.raises(SourceError, match="No such file"):
        read_eval_data(tmp_path / "missing.npz", (1, 2, 2))


def test_an_output_that_is_not_a_row_of_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="want"):
        correctness(lambda x: [x], read_eval_data(data(tmp_path), (1, 2, 2)), 1)


def test_labels_of_other_classes_are_refused(tmp_path: Path) -> None:
    held = read_eval_data(data(tmp_path), (1, 2, 2))
    held.labels[3] = 2
    with pytest.raises(SourceError, match="labels run from 0 to 2, want 0 to 1"):
        correctness(lambda x: scores_of_sum(x), held, 4)


@pytest.mark.parametrize(
    ("flips", "allowed", "holds"),
    [
        ({}, 0.01, True),
        ({0: False, 1: False}, 0.01, True),
        ({0: False, 1: False, 2: False}, 0.01, False),
        ({199: True, 0: False, 1: False, 2: False}, 0.01, True),
        ({199: True}, 0.01, True),
        ({199: True}, 0.0, False),
        ({199: True, 0: False}, 0.0, False),
    ],
)
def test_a_lower_precision_may_lose_a_share_of_the_images(flips: dict[int, bool], allowed: float, holds: bool) -> None:
    """Given 200 images, the last one wrong before -> 1 % may be lost, on balance; without a share, none changes."""
    before = np.arange(200) < 199
    after = before.copy()
    after[list(flips)] = list(flips.values())
    record = accuracy("ONNX int8", after, before, loss_allowed=allowed)
    assert bool(record) == holds
    assert record.lost == int(before.sum()) - int(after.sum()) and record.changed == len(flips)
    if not holds and allowed:
        assert str(record).endswith("3 fewer than the network before; at most 1% may be lost")


def test_several_inputs_by_name(tmp_path: Path) -> None:
    """Given an array for each input -> each in its type, and scores of all of them; labels as ever."""
    rng = np.random.default_rng(0)
    arrays = {"a": rng.normal(size=(5, 3)), "i": rng.integers(0, 3, (5, 1)), "labels": np.array([0, 1, 2, 0, 1])}
    shapes = {"a": (3,), "i": (1,)}
    held = read_eval_data(write(tmp_path / "two.npz", **arrays), shapes)
    assert {name: x.dtype for name, x in held.of_inputs(("a", "i")).items()} == {"a": np.float32, "i": np.int64}
    right = correctness(lambda a, i: [np.eye(3)[(i[:, 0]) % 3] + 0 * a], held, 2)
    assert right.tolist() == (arrays["i"][:, 0] == arrays["labels"]).tolist()
    arrays["i"] = arrays["i"][:4]
    with pytest.raises(SourceError, match="a has 5 rows and i 4"):
        read_eval_data(write(tmp_path / "two.npz", **arrays), shapes)
    with pytest.raises(SourceError, match="the input gain has no batch axis"):
        read_eval_data(tmp_path / "two.npz", shapes, {"gain"})
