"""Memory of results: kept while referred to, and used again behind whoever may still read it."""

import ctypes
import gc
import threading

import numpy as np
import pytest

from plainconv.engines.cuda.blocks import Blocks
from plainconv.engines.cuda.device_array import DEFAULT_STREAM
from plainconv.exporter.errors import EngineError


@pytest.fixture
def stream(device):
    return device.cuda.create_stream()


def write(device, block, stream, size=300):
    """Work that writes a block, as an engine would."""
    return device.enqueue(stream, writes=((block.address, size),))


def test_blocks_are_kept_while_referred_to(device, stream):
    """Given blocks of one size -> no two that live share memory; what is dropped is used again."""
    blocks = Blocks(device.cuda)
    first, second = blocks.take(300, stream), blocks.take(400, stream)
    assert first.address != second.address
    address = first.address
    del first
    device.calls.clear()
    third = blocks.take(512, stream)
    assert third.address == address and device.names() == ["create_event", "mark", "wait_for"]
    blocks.take(10**6, stream)
    assert device.names() == ["allocate"]
    blocks.close()
    assert set(device.buffers) == {second.address, third.address}
    del second, third
    assert not device.buffers


@pytest.mark.parametrize("named", [False, True])
def test_memory_is_written_again_behind_its_readers(device, stream, named):
    """Given a dropped block that a stream still reads -> the next writer waits for it on the device, no thread does.

    The stand-in fails where work on the same memory is not ordered.
    """
    blocks, consumer = Blocks(device.cuda), device.cuda.create_stream()
    reader = consumer if named else DEFAULT_STREAM
    for _ in range(3):
        block = blocks.take(300, stream)
        write(device, block, stream)
        while not device.cuda.idle(stream):
            pass
        device.enqueue(reader, reads=((block.address, 300),))
        block.consumers.update({consumer} if named else ())
        del block
    device.calls.clear()
    write(device, blocks.take(300, stream), stream)
    assert len(device.buffers) == 1 and "allocate" not in device.names()


def test_reader_that_nobody_named_is_found_out(device, stream):
    """Given the same without the wait -> the stand-in sees two pieces of work meet: the test above can fail."""
    blocks, consumer = Blocks(device.cuda), device.cuda.create_stream()
    block = blocks.take(300, stream)
    device.enqueue(consumer, reads=((block.address, 300),))
    del block
    with pytest.raises(AssertionError, match="neither waits for the other"):
        write(device, blocks.take(300, stream), stream)


def test_consumer_that_is_being_captured(device, stream, standin_cuda):
    """Given a dropped block whose consumer captures a graph -> other memory; that one is used when it has ended."""
    blocks, consumer = Blocks(device.cuda), device.cuda.create_stream()
    block = blocks.take(300, stream)
    block.consumers.add(consumer)
    address = block.address
    del block
    capturing, may_end = threading.Event(), threading.Event()

    def capture():
        device.cudaStreamBeginCapture(consumer, standin_cuda.MODE.cudaStreamCaptureModeGlobal)
        device.enqueue(consumer)
        capturing.set()
        may_end.wait(30)
        ended.append(device.cudaStreamEndCapture(consumer)[0])

    ended, thread = [], threading.Thread(target=capture)
    thread.start()
    assert capturing.wait(30)
    other = blocks.take(300, stream)  # allocates, which a capture in global mode does not survive by itself
    assert other.address != address
    may_end.set()
    thread.join()
    assert ended == [standin_cuda.OK] and blocks.take(300, stream).address == address


def test_consumer_whose_stream_is_gone(device, stream):
    """Given a dropped block whose consumer's stream was destroyed -> its memory is freed, which waits."""
    blocks, consumer = Blocks(device.cuda), device.cuda.create_stream()
    block = blocks.take(300, stream)
    block.consumers.add(consumer)
    del block
    device.cuda.destroy_stream(consumer)
    device.calls.clear()
    blocks.take(300, stream)
    assert device.names() == ["free", "allocate"]
    blocks.close()
    assert not device.buffers


def test_gpu_that_is_lost(device, stream):
    """Given a GPU that answers nothing -> the taking fails, in one line."""
    blocks = Blocks(device.cuda)
    blocks.take(300, stream)
    device.dead.add(0)
    with pytest.raises(EngineError, match="unspecified launch failure"):
        blocks.take(300, stream)


def test_blocks_dropped_by_the_garbage_collector_while_one_is_taken(device, stream, monkeypatch):
    """Given a block that dies in the middle of a taking -> no lock is waited for."""
    blocks = Blocks(device.cuda)
    held = [blocks.take(300, stream)]
    address, allocate = held[0].address, device.cuda.allocate
    monkeypatch.setattr(device.cuda, "allocate", lambda size: (held.clear(), gc.collect(), allocate(size))[2])
    other = blocks.take(5000, stream)
    assert other.address != address and blocks.take(300, stream).address == address


def test_blocks_from_many_threads(device, stream):
    """Given 4 threads that take, keep and drop -> no two live blocks are ever the same memory; all of it comes back."""
    blocks, failures = Blocks(device.cuda), []

    def work(seed):
        random, mine = np.random.default_rng(seed), []
        for _ in range(200):
            block = blocks.take(int(random.integers(1, 2000)), stream)
            ctypes.memset(block.address, seed, 1)
            mine.append(block)
            if random.random() < 0.6:
                mine.pop(int(random.integers(len(mine))))
            failures.extend(1 for other in mine if ctypes.string_at(other.address, 1) != bytes([seed]))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    blocks.close()
    assert not failures and not device.buffers
