"""TensorRT's timing cache in a file, by a double of its config: TensorRT-RTX has none, and a real one needs a GPU."""

import pytest

from plainconv.engines.backend import backends
from plainconv.engines.tensorrt.timing_cache import read_cache, refuse_cache, write_cache
from plainconv.exporter.errors import EngineError

RTX = next(b for b in backends() if b.name == "tensorrt_rtx")
TENSORRT = next(b for b in backends() if b.name == "tensorrt")


class Cache:
    def __init__(self, data):
        self.data = data

    def serialize(self):
        return memoryview(self.data + b"+measured")


class Config:
    """Takes a cache that is empty or begins with "trt"."""

    cache = None

    def create_timing_cache(self, data):
        return Cache(data) if data[:3] in (b"", b"trt") else None

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        self.cache = cache
        return not cache.data.endswith(b"other GPU")

    def get_timing_cache(self):
        return self.cache


def test_what_a_build_measures_is_there_for_the_next(tmp_path):
    """Given no file, then what a build left -> read, added to, written; nothing else in the folder."""
    path = tmp_path / "cache"
    for wanted in (b"", b"trt"):
        path.write_bytes(wanted) if wanted else None
        config = Config()
        read_cache(config, path)
        write_cache(config, path)
        assert path.read_bytes() == wanted + b"+measured"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"junk", b"trt of an other GPU"])
def test_file_that_is_no_cache_of_this_gpu(tmp_path, content):
    path = tmp_path / "cache"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"cache is none of this TensorRT and GPU \(\d+ bytes\); remove it"):
        read_cache(Config(), path)


def test_write_that_fails_leaves_the_old_cache(tmp_path):
    path = tmp_path / "cache"
    path.write_bytes(b"trt")

    class Full(Cache):
        def serialize(self):
            raise MemoryError

    config = Config()
    config.cache = Full(b"")
    with pytest.raises(MemoryError):
        write_cache(config, path)
    config.cache = Cache(b"")
    with pytest.raises(EngineError, match="cannot be written"):
        write_cache(config, tmp_path / "gone" / "cache")
    assert path.read_bytes() == b"trt" and list(tmp_path.iterdir()) == [path]


def test_no_cache_where_none_can_be(tmp_path):
    (tmp_path / "folder").mkdir()
    for backend, path, message in (
        (RTX, tmp_path / "cache", "tensorrt_rtx has none: it measures nothing; leave it out"),
        (TENSORRT, tmp_path / "folder", "folder is not a file; give one, or a name that is free"),
        (TENSORRT, tmp_path / "no" / "cache", "there is no folder .*no; make it first"),
    ):
        with pytest.raises(EngineError, match=message):
            refuse_cache(backend, path)
    refuse_cache(TENSORRT, tmp_path / "cache")
