"""A detector's non-maximum suppression in its graph, against the plain rule in float64."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from plainconv import exporter
from plainconv.engines.predict.nms import kept
from plainconv.exporter.errors import SourceError
from plainconv.exporter.pipeline.steps import ONNX

BOXES = 24


class Rows(nn.Module):
    """Boxes as numbers of the image itself: [B, 3, 4, N] → rows [B, 4 + 2, N], or boxes and scores."""

    def __init__(self, form: str = "rows") -> None:
        super().__init__()
        self.form = form
        self.mix = nn.Conv2d(3, 6, (4, 1), bias=False)
        with torch.no_grad():
            self.mix.weight.zero_()
            for k in range(6):
                self.mix.weight[k, k % 3, k // 3, 0] = 1

    def forward(self, x: torch.Tensor) -> Any:
        y = self.mix(x)[:, :, 0]
        y = torch.cat([y[:, :2] * 40, y[:, 2:4] * 20 + 1, y[:, 4:]], 1)
        if self.form == "rows":
            return y
        boxes = torch.cat([y[:, :2] - y[:, 2:4] / 2, y[:, :2] + y[:, 2:4] / 2], 1)
        return {"where": boxes.transpose(1, 2), "what": y[:, 4:].transpose(1, 2), "more": y.mean(2)}


def wanted(rows_6N: np.ndarray, score: float, iou: float, most: int) -> list[tuple[int, float]]:
    """Class and score of what stays of one image's rows, the best first."""
    rows = rows_6N.astype(np.float64)
    boxes = np.concatenate([rows[:2] - rows[2:4] / 2, rows[:2] + rows[2:4] / 2]).T
    scores, labels = rows[4:].max(0), rows[4:].argmax(0)
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > score]
    stay = order[kept(boxes[order], labels[order], iou, most)]
    return [(int(labels[i]), float(scores[i])) for i in stay]


@pytest.mark.parametrize(("form", "nms"), [("rows", "plain"), pytest.param("dense", "node", marks=pytest.mark.slow)])
def test_what_stays_is_what_the_plain_rule_keeps(tmp_path: Any, form: str, nms: str) -> None:
    """Given boxes in crowds -> the graph keeps what the rule in float64 does, in fixed sizes, a count, and `exact`."""
    module, crowd = Rows(form).eval(), torch.rand(1, 3, 4, BOXES, generator=torch.Generator().manual_seed(3))
    bundle = exporter.export(
        module, crowd, tmp_path / "out", postprocess="detect:0.4,0.45,8", nms=nms, engine="none", check=False
    )
    names = [spec.name for spec in bundle.outputs]
    assert names == ["boxes", "scores", "labels", "count", "exact", *(["more"] if form == "dense" else [])]
    record = bundle.manifest.postprocessing
    assert record is not None and (record.form, record.count, record.score, record.max) == ("final", "count", 0.4, 8)
    said = {p["output"]: p["status"] for p in bundle.manifest.parities if p["step"] == ONNX}
    assert [said[name] for name in names[:3]] == ["held"] * 3 and not any(s.startswith("failed") for s in said.values())
    session = onnxruntime.InferenceSession(str(bundle.onnx))
    ops = {node.op_type for node in onnx.load(bundle.onnx).graph.node}
    assert ("Loop" in ops, "NonMaxSuppression" in ops) == (nms == "plain", nms == "node")
    for seed in range(12):
        x = torch.rand(1, 3, 4, BOXES, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            rows = Rows().eval()(x)[0].numpy()
        boxes, scores, labels, count, exact = session.run(names[:5], {bundle.inputs[0].name: x.numpy()})
        stay = wanted(rows, 0.4, 0.45, 8)
        assert boxes.shape == (1, 8, 4) and count.tolist() == [len(stay)] and exact.tolist() == [True]
        assert labels[0, : len(stay)].tolist() == [label for label, _ in stay]
        assert np.array_equal(scores[0, : len(stay)], np.float32([score for _, score in stay]))
        assert not scores[0, len(stay) :].any() and (labels[0, len(stay) :] == -1).all()


def test_what_has_nothing_to_suppress(tmp_path: Any) -> None:
    example = torch.rand(1, 3, 4, 60)
    for module, postprocess, said in (
        (nn.Sequential(nn.Flatten(), nn.Linear(720, 5)), "classify", "--postprocess says classify"),
        (nn.Sequential(nn.Flatten(), nn.Linear(720, 5)), None, "wanted boxes"),
    ):
        with pytest.raises(SourceError, match=said):
            exporter.export(module.eval(), example, tmp_path / "x", postprocess=postprocess, nms="plain", engine="none")
    assert not (tmp_path / "x").exists()
