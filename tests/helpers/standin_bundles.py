"""Bundles whose engines the stand-in for TensorRT runs: whole networks, and networks in parts."""

import shutil

import standin_tensorrt

from plainconv.engines.backend import backends
from plainconv.exporter.bundle import EngineRecord, TensorSpec, write_bundle

INPUTS = (TensorSpec("x", "float32", ("batch", 3, 8, 8)), TensorSpec("scale", "float32", ("batch", 1, 1, 1)))
OUTPUTS = (TensorSpec("logits", "float32", ("batch", 4, 8, 8)), TensorSpec("pooled", "float16", ("batch", 4, 1, 1)))
UP_TO_4 = (standin_tensorrt.profile(1, 4),)


def add_engine(draft, model, onnx_sha256, profiles, *, precision="fp32", backend="tensorrt_rtx", name="net", **told):
    """An engine of the stand-in for an ONNX file, by the version of the runtime that is installed."""
    file = f"engines/{name}-{backend}-{precision}.engine"
    draft.path(file).write_bytes(standin_tensorrt.engine_bytes(model, profiles, **told))
    size, sha256 = draft.record(file).size, draft.record(file).sha256
    version = next(each.version for each in backends() if each.name == backend)
    targets, made = ("sm86",), (0.1, size, sha256, onnx_sha256)
    draft.add_engine(EngineRecord(file, backend, version, precision, False, targets, None, profiles, *made))
    return file


def whole_bundle(folder, *engines, batch="batch", profiles=UP_TO_4):
    """A bundle of the stand-in's model, with an engine for each dict of options of `add_engine`."""
    with write_bundle(folder) as draft:
        shapes = [(spec.name, spec.dtype, (batch, *spec.shape[1:])) for spec in (*INPUTS, *OUTPUTS)]
        specs = [TensorSpec(*each) for each in shapes]
        draft.manifest.inputs, draft.manifest.outputs = tuple(specs[:2]), tuple(specs[2:])
        standin_tensorrt.make_model(draft.path("model.onnx"), batch)
        draft.link("checkpoint", sha256="c" * 64)
        onnx_sha256 = draft.link_onnx().sha256
        model = shutil.copy(draft.file("model.onnx"), folder.with_suffix(".onnx"))
        for options in engines or ({},):
            add_engine(draft, model, onnx_sha256, profiles, **options)
    return folder


def split_bundle(folder, split, batches=((1, 4),), refuses=()):
    """A bundle of a `split_doubles.Split`, with an engine for each part; `refuses`: of them all."""
    with write_bundle(folder) as draft:
        draft.manifest.inputs, draft.manifest.outputs = split.inputs, split.outputs
        shutil.copy(split.whole, draft.path("model.onnx"))
        draft.link("checkpoint", sha256="c" * 64)
        onnx_sha256 = draft.link_onnx().sha256
        for part, file in zip(split.record.parts, split.files, strict=True):
            shutil.copy(file, draft.path(part.file))
        added = draft.add_split(split.of(onnx_sha256))
        for part, file in zip(added.parts, split.files, strict=True):
            names = [spec.name for spec in part.inputs]
            profiles = tuple(split.profile(low, high, names) for low, high in batches)
            add_engine(draft, file, part.sha256, profiles, name=part.name, refuses=list(refuses))
    return folder
