"""What outputs mean: written, read, and derived from their shapes."""

import json

import pytest

from plainconv.exporter.bundle import Postprocessing, TensorSpec, classes_of, default_of
from plainconv.exporter.bundle.postprocessing import misread, postprocessing_given, postprocessing_of_json
from plainconv.exporter.errors import SourceError

LOGITS = (TensorSpec("logits", "float32", ("n", 10)),)
MAPS = (TensorSpec("aux", "float32", (1, 5)), TensorSpec("out", "float32", (1, 21, 60, 80)))
ROWS = (TensorSpec("output0", "float32", (1, 84, 8400)),)
DENSE = (TensorSpec("b", "float32", ("n", 99, 4)), TensorSpec("s", "float32", ("n", 99, 7)))
FINAL = (
    TensorSpec("boxes", "float32", (1, 100, 4)),
    TensorSpec("scores", "float32", (1, 100)),
    TensorSpec("labels", "int64", (1, 100)),
    TensorSpec("count", "int64", (1,)),
)

NAMES = {"form": "final", "boxes": "boxes", "scores": "scores", "labels": "labels"}
MASKED = (*FINAL, TensorSpec("masks", "float32", (1, 100, 28, 28)))


@pytest.mark.parametrize(
    ("text", "outputs", "said", "classes"),
    [
        ("classify", LOGITS, {"kind": "classify", "output": "logits", "top": 5}, 10),
        ("classify:3", LOGITS, {"kind": "classify", "output": "logits", "top": 3}, 10),
        ("segment", MAPS, {"kind": "segment", "output": "out"}, 21),
        ("none", MAPS, {"kind": "none"}, None),
        ("detect", ROWS, {"form": "rows", "boxes": "output0", "scores": "output0", "coordinates": "cxcywh"}, 80),
        (
            "detect:0.1,,7",
            DENSE,
            {"form": "dense", "boxes": "b", "scores": "s", "score": 0.1, "iou": 0.45, "max": 7},
            7,
        ),
        ("detect:,,,xyxy", ROWS, {"form": "rows", "coordinates": "xyxy", "score": 0.25, "max": 300}, 80),
        ("detect", FINAL, {"form": "final", "labels": "labels", "count": "count", "score": 0.25, "version": 1}, None),
        ("detect", MASKED, {"form": "final", "labels": "labels", "masks": "masks", "version": 2}, None),
    ],
)
def test_what_a_user_writes(text, outputs, said, classes) -> None:  # type: ignore[no-untyped-def]
    """Given a kind and outputs -> the record, which the manifest has, which is read as it was, and how many classes."""
    made = postprocessing_given(text, outputs)
    assert made is not None
    written = json.loads(json.dumps(made.as_json()))
    assert said.items() <= written.items() and postprocessing_of_json(written) == made
    assert misread(made, outputs) is None and classes_of(made, outputs) == classes


@pytest.mark.parametrize(
    ("text", "outputs", "said"),
    [
        ("boxes", LOGITS, "wanted classify[:k], segment, detect[:score,iou,max] or none"),
        ("classify:0", LOGITS, "'0' is no number of classes"),
        ("classify:x", LOGITS, "'x' is no number of classes"),
        ("segment:2", MAPS, "segment has no numbers"),
        ("detect:2", ROWS, "wanted detect:SCORE,IOU,MAX"),
        ("detect:nan", ROWS, "wanted detect:SCORE,IOU,MAX"),
        ("detect:0.1,0.2,0.5", ROWS, "wanted detect:SCORE,IOU,MAX"),
        ("detect:0.1,0.2,3,xywh", ROWS, "wanted detect:SCORE,IOU,MAX"),
        ("classify", MAPS[1:], "the network gives out float32[1, 21, 60, 80]; wanted an output [batch, classes]"),
        ("segment", LOGITS, "wanted an output [batch, classes, height, width]"),
        ("detect", LOGITS, "wanted boxes [batch, n, 4] and scores"),
        ("detect", DENSE[:1], "wanted boxes [batch, n, 4] and scores"),
    ],
)
def test_what_a_user_writes_wrongly(text, outputs, said) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SourceError) as caught:
        postprocessing_given(text, outputs)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_not_said() -> None:
    """Given outputs of which nothing is said -> boxes by their names, else classes, else nothing."""
    assert default_of(LOGITS) == Postprocessing("classify", output="logits")
    final = default_of(FINAL)
    assert final is not None and (final.kind, final.form, final.count) == ("detect", "final", "count")
    assert default_of(ROWS) is None and default_of((TensorSpec("y", "int64", (1, 5)),)) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": None}, "version is None, wanted 1"),
        ({"kind": "boxes"}, "kind is 'boxes', wanted"),
        ({"coordinates": "xywh"}, "coordinates is 'xywh', wanted 'xyxy' or 'cxcywh'"),
        ({"form": "cols"}, "form is 'cols', wanted 'rows' or 'dense' or 'final'"),
        ({"score": 1.5}, "score is 1.5, wanted a number from 0 to 1"),
        ({"iou": True}, "iou is True, wanted a number from 0 to 1"),
        ({"max": 0}, "max is 0, wanted a whole number"),
        ({"boxes": ""}, "boxes is '', wanted the name of an output"),
        ({"labels": 7}, "labels is 7, wanted the name of an output or null"),
        ({"top": 5}, "top is unknown, wanted version, kind, form"),
        ({"iou": ...}, "iou is missing"),
        ({"version": 2}, "masks is missing"),
        ({"version": 2, "masks": 3}, "masks is 3, wanted the name of an output or null"),
        ({"masks": None}, "masks is unknown, wanted version, kind, form"),
    ],
)
def test_the_vocabulary_is_closed(change, said) -> None:  # type: ignore[no-untyped-def]
    made = postprocessing_given("detect", ROWS)
    assert made is not None
    data = {key: value for key, value in {**made.as_json(), **change}.items() if value is not ...}
    with pytest.raises(ValueError) as caught:
        postprocessing_of_json(data)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("record", "outputs", "said"),
    [
        (Postprocessing("classify", output="y"), LOGITS, "reads y, the network gives logits"),
        (Postprocessing("classify", output="out"), MAPS, "wanted real numbers of 2 axes"),
        (Postprocessing("detect", form="dense", boxes="s", scores="b"), DENSE, "wanted 4 numbers each"),
        (Postprocessing("detect", form="rows", boxes="b", scores="s"), DENSE, "as rows, wanted one output"),
        (Postprocessing("detect", form="final", boxes="boxes", scores="scores"), FINAL, "final without labels"),
        (Postprocessing("detect", form="dense", boxes="b", scores="s", masks="m"), (*DENSE, MASKED[4]), "reads m, the"),
        (
            Postprocessing("detect", form="dense", boxes="b", scores="s", masks="masks"),
            (*DENSE, MASKED[4]),
            "has masks",
        ),
        (Postprocessing("detect", **NAMES, masks="count"), FINAL, "wanted numbers of 4 axes"),
    ],
)
def test_what_does_not_fit_the_outputs(record, outputs, said) -> None:  # type: ignore[no-untyped-def]
    assert said in (misread(record, outputs) or "")
