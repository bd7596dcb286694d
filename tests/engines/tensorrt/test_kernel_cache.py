"""Kernels that TensorRT-RTX compiled, from one process to the next: in a file that nothing can spoil."""

import os
from pathlib import Path

import pytest

from plainconv.engines.tensorrt import kernel_cache
from plainconv.engines.tensorrt.kernel_cache import KernelCache, cache_file
from plainconv.exporter.errors import PlainconvWarning


@pytest.fixture
def config(standin_tensorrt):
    return standin_tensorrt.Config()


def test_what_was_compiled_is_there_the_next_time(tmp_path, standin_tensorrt, config):
    """Given kernels that one process compiled -> the next one has them; nothing else lies in the folder."""
    file = tmp_path / "deep" / "engine.rtx"
    cache = KernelCache(file)
    cache.give_to(config)
    config.cache().kernels.append("conv")
    cache.save()
    assert [path.name for path in file.parent.iterdir()] == ["engine.rtx"]
    other = standin_tensorrt.Config()
    again = KernelCache(file)
    again.give_to(other)
    assert other.cache().kernels == ["conv"]
    before = file.stat().st_mtime_ns
    again.save()
    assert file.stat().st_mtime_ns == before  # nothing is new


def test_configurations_of_one_engine_share_it(standin_tensorrt, config):
    cache, other = KernelCache(), standin_tensorrt.Config()
    cache.give_to(config)
    cache.give_to(other)
    assert config.cache() is other.cache()
    cache.save()


@pytest.mark.parametrize("data", [b"", b"junk", b"\xff" * 1000])
def test_file_that_cannot_be_read_is_ignored(tmp_path, config, data):
    """Given a file that the runtime does not take -> a warning, and it is written anew."""
    file = tmp_path / "engine.rtx"
    file.write_bytes(data)
    cache = KernelCache(file)
    with pytest.warns(PlainconvWarning, match=r"compiled kernels in .*engine\.rtx cannot be read .*compiled again"):
        cache.give_to(config)
    config.cache().kernels.append("conv")
    cache.save()
    assert file.read_bytes() == b'["conv"]'


def test_folder_that_cannot_be_written(tmp_path, config):
    """Given a file where the folder should be -> no kernels are kept, and nothing fails."""
    (tmp_path / "file").write_text("")
    cache = KernelCache(tmp_path / "file" / "engine.rtx")
    cache.give_to(config)
    config.cache().kernels.append("conv")
    cache.save()
    assert (tmp_path / "file").read_text() == ""


def test_the_oldest_go_first(tmp_path, monkeypatch, config):
    """Given more than all files may hold -> those not used for longest go; other files stay."""
    monkeypatch.setattr(kernel_cache, "MOST_BYTES", 2000)
    for age, name in ((3, "oldest"), (2, "older"), (1, "young")):
        (tmp_path / f"{name}.rtx").write_bytes(b"x" * 800)
        os.utime(tmp_path / f"{name}.rtx", (10**9 - age, 10**9 - age))
    (tmp_path / "notes.txt").write_text("mine")
    cache = KernelCache(tmp_path / "new.rtx")
    cache.give_to(config)
    config.cache().kernels.append("k" * 400)
    cache.save()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.rtx", "notes.txt", "young.rtx"]
    monkeypatch.setattr(kernel_cache, "MOST_BYTES", 10)
    config.cache().kernels.append("more")
    cache.save()  # too large to be kept
    assert b"more" not in (tmp_path / "new.rtx").read_bytes()


def test_a_file_is_for_one_engine_gpu_and_version(monkeypatch):
    """Given any other engine, GPU or version -> another file, below the user's cache folder."""
    monkeypatch.delenv("PLAINCONV_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    file = cache_file("a" * 64, "NVIDIA GeForce RTX 3090 sm86", "1.7.1")
    assert file == Path(f"/cache/plainconv/kernels/{'a' * 32}-NVIDIA_GeForce_RTX_3090_sm86-1.7.1.rtx")
    others = (cache_file("b" * 64, "A", "1"), cache_file("a" * 64, "A", "1"), cache_file("a" * 64, "A", "2"))
    assert len({file, *others}) == 4
    monkeypatch.setenv("PLAINCONV_CACHE", "/mine")
    assert cache_file("a" * 64, "A", "1").parent == Path("/mine")
