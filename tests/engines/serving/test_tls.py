"""The certificate and its key, and others in their place."""

import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from plainconv.engines.serving.tls import Certificates
from plainconv.exporter.errors import EngineError


def test_a_pair_that_is_replaced(
    certificate: Callable[..., Certificates], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Given another pair in the place of the first -> it is taken once; half of it is not, and is said once."""
    pair = certificate(tmp_path)
    first, context = pair.pair, pair.context
    assert not pair.refresh() and pair.context is context
    key = (tmp_path / "key.pem").read_bytes()
    certificate(tmp_path)
    own = (tmp_path / "key.pem").read_bytes()
    (tmp_path / "key.pem").write_bytes(key)
    with caplog.at_level(logging.WARNING, "plainconv.serving"):
        assert not pair.refresh() and not pair.refresh() and pair.pair == first
        assert len(caplog.records) == 1 and "the one before stays" in caplog.text
        (tmp_path / "key.pem").write_bytes(own)
        assert pair.refresh() and not pair.refresh()
    assert pair.pair != first and pair.context is not context and isinstance(pair.context, ssl.SSLContext)
    assert "certificate reloaded" in caplog.text


def test_a_file_that_goes(certificate: Callable[..., Certificates], tmp_path: Path) -> None:
    pair = certificate(tmp_path)
    first = pair.pair
    (tmp_path / "cert.pem").unlink()
    assert not pair.refresh() and pair.pair == first
    with pytest.raises(EngineError, match="wanted a certificate and its key"):
        Certificates(tmp_path / "cert.pem", tmp_path / "key.pem")


@pytest.mark.parametrize("what", ["a pipe", "a folder", "a link to itself", "a device"])
def test_what_is_no_file(certificate: Callable[..., Certificates], tmp_path: Path, what: str) -> None:
    """Given what has no end, or is no file, in the place of one -> nobody waits for it, and the old pair stays."""
    pair = certificate(tmp_path)
    first, cert = pair.pair, tmp_path / "cert.pem"
    kept = cert.read_bytes()
    cert.unlink()
    if what == "a pipe":
        os.mkfifo(cert)
    elif what == "a folder":
        cert.mkdir()
    else:
        cert.symlink_to("/dev/zero" if what == "a device" else cert.name)
    assert not pair.refresh() and pair.pair == first
    cert.rename(tmp_path / "gone")
    cert.write_bytes(kept)
    assert pair.refresh() and pair.pair == first
