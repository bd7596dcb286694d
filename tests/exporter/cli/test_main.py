"""The command line: what it prints, what it returns, what it leaves behind."""

import argparse
import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from places import ASSETS, ROOT

from plainconv.exporter.bundle import Bundle, update_bundle
from plainconv.exporter.cli.build import _shapes
from plainconv.exporter.cli.main import _no_interrupt_lost, main
from plainconv.exporter.cli.words import only_our_words
from plainconv.exporter.errors import PlainconvWarning
from plainconv.exporter.progress import be_quiet

DIGITS = ASSETS / "vanillanet_digits.pth"
EVAL = ASSETS / "digits_heldout.npz"

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Linear(width, 3)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))

class Constant(Net):
    def forward(self, x):
        return super().forward(x) * 0

class Chatty(Net):
    def forward(self, x):
        import warnings
        print("chatter")
        warnings.warn("not ours")
        return super().forward(x)
"""


@pytest.fixture(autouse=True)
def _loud_again():
    yield
    be_quiet(False)


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    path = tmp_path_factory.mktemp("user") / "nets.py"
    path.write_text(NETS)
    return path


@pytest.fixture(scope="module")
def exported(nets, tmp_path_factory):
    """One bundle, exported once, never written to."""
    path = tmp_path_factory.mktemp("bundles") / "net"
    assert main(["export", f"{nets}:Net", "--input-shape", "1,3,8,8", "-o", str(path), "--quiet", "--json"]) == 0
    be_quiet(False)
    return path


def refused(capsys, *arguments: str, code: int = 2) -> str:
    """Run a command that must fail: the one line it says."""
    try:
        result = main([*arguments])
    except SystemExit as stop:
        result = stop.code
    said = capsys.readouterr()
    assert (result, said.out) == (code, "")
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith("exporter")
    return said.err


# ------------------------------------------------------------------ bad arguments


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "COMMAND"),
        (("fly",), "invalid choice: 'fly'"),
        (("run", "vanillanet_digits"), "-o/--output"),
        (("run", "x", "-o", "b", "--input-shape", "1,3,0"), "wanted positive integers like 1,3,224,224"),
        (("run", "x", "-o", "b", "--input-shape", "1,99999999999"), "is not a shape"),
        (("run", "x", "-o", "b", "--dynamic-batch", "3:2:1"), "wanted MIN:OPT:MAX like 1:8:32"),
        (("run", "x", "-o", "b", "--dynamic-batch", "1:2:99999999999"), "is not a batch range"),
        (("run", "x", "-o", "b", "--dynamic-size", "8:16"), "wanted MIN:OPT:MAX like 160:224:512, or 120x160:240x320"),
        (("run", "x", "-o", "b", "--dynamic-size", "8:16:9"), "'8:16:9' is not a size range"),
        (("run", "x", "-o", "b", "--dynamic-size", "8x9:16x8:32x32"), "is not a size range"),
        (("run", "x", "-o", "b", "--dynamic-size", "8x8x8:9x9x9:9x9x9"), "is not a size range"),
        (("run", "x", "-o", "b", "--dynamic-size", "0:1:2"), "is not a size range"),
        (("export", "x", "-o", "b", "--dynamic-size", "a:b:c"), "is not a size range"),
        (("run", "x", "-o", "b", "--targets", "sm80,"), "wanted some like sm80,sm86"),
        (("run", "x", "-o", "b", "--set", "width"), "wanted NAME=VALUE"),
        *(
            (("build", "b", "--tolerance", text), f"{text!r} is not a tolerance; wanted a positive number like 0.1")
            for text in ("nan", "0", "inf", "1e999", "half", "")
        ),
        (("run", "x", "-o", "b", "--tolerance=-1"), "'-1' is not a tolerance"),
        *(
            (("build", "b", "--workspace", text), f"{text!r} is not a size; wanted MiB, a whole number like 1024")
            for text in ("0", "1.5", "1e3", "1GB", "")
        ),
        (("run", "x", "-o", "b", "--workspace=-1"), "'-1' is not a size"),
        (("build", "b", "--optimization-level", "6"), "invalid choice: 6"),
        (("build", "b", "--calibration-method", "mean"), "invalid choice: 'mean'"),
        (("build", "b", "--precision", "fp16,"), "'fp16,' is not a list of names"),
        (("build", "b", "--dynamic-batch", "4:2:1"), "wanted MIN:OPT:MAX like 1:8:32"),
        (("build", "b", "--dynamic-size", "0:1:2"), "is not a size range"),
        (("run", "x", "-o", "b", "--rebuild"), "unrecognized arguments: --rebuild"),
    ],
)
def test_bad_argument_is_one_line(capsys, arguments, says):
    assert says in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--opset", "5"], "opset 5 is out of range; wanted 20 to"),
        (["--opset", "99"], "opset 99 is out of range; wanted 20 to"),
        (["--engine", "none", "--targets", "sm80"], "both --targets and --engine none"),
        (["--engine", "none", "--precision", "fp15"], "unknown precision 'fp15'"),
        (["--engine", "none", "--precision", "int8", "--calibration", "nope.npz"], "nope.npz: No such file"),
        (["--random-init", "0"], "both --checkpoint and --random-init"),
        (["--ema"], "no EMA weights in it, found model; leave --ema out"),
        (["--layout", "deploy"], "has the training layout"),
        (["--slope", "3"], "wanted a number from 0"),
        (["--set", "widht=3"], "option widht is unknown, wanted one of num_classes"),
        (["--set", "num_classes=ten"], "num_classes is 'ten', wanted a whole number"),
        (["--set", "num_classes=7"], "its classifier has 10 classes, wanted 7"),
        (["--input-shape", "1,3,32,32"], "to have 1 channels, but got 3"),
        (["--input-shape", "1,32,32"], "--input-shape N,C,H,W"),
        (["--input-shape", "1,1,33,31"], "heights and widths from 32 on"),
        (["--input-shape", "1,1,2000000000,2000000000"], "shape 1,1,2000000000,2000000000"),
        (["--eval-data", "nope.npz"], "nope.npz"),
    ],
)
def test_option_that_does_not_fit_leaves_nothing(capsys, tmp_path, options, says):
    job = ["export"] if "--engine" not in options else ["run"]
    line = refused(capsys, *job, "vanillanet_digits", "--checkpoint", str(DIGITS), "-o", str(tmp_path / "b"), *options)
    assert says in line
    assert list(tmp_path.iterdir()) == []


def _truncated(path: Path) -> None:
    path.write_bytes(DIGITS.read_bytes()[:9999])


def _hostile(path: Path) -> None:
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(path.parent / "ran"),)

    torch.save({"model": Runs()}, path)


def _sick(path: Path) -> None:
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(DIGITS, weights_only=True)
    content["model"]["stem1.0.weight"][0] = float("nan")
    torch.save(content, path)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "is empty, 0 bytes"),
        (lambda path: path.write_text("<html>"), "is no checkpoint"),
        (_truncated, "is truncated or damaged"),
        (_hostile, "loading a checkpoint runs no code"),
        (_sick, "1 of 109 tensors hold NaN or inf (first: stem1.0.weight)"),
    ],
)
def test_bad_checkpoint_is_one_line_and_leaves_nothing(capsys, tmp_path, write, says):
    path, out = tmp_path / "c.pth", tmp_path / "out"
    write(path)
    line = refused(capsys, "run", "vanillanet_digits", "--checkpoint", str(path), "-o", str(out / "b"))
    assert says in line
    assert not out.exists()
    assert not (tmp_path / "ran").exists()


def test_wrong_family_says_how_many_keys_and_what_fits(capsys, tmp_path):
    wrong = str(ASSETS / "parnet_digits.pth")
    line = refused(capsys, "run", "vanillanet_digits", "--checkpoint", wrong, "-o", str(tmp_path / "b"))
    assert "93 keys missing (first: stem1.0.weight" in line
    assert "it fits parnet_digits, training layout" in line


# ------------------------------------------------------------------ optimization profiles

B1, B2 = (1, 1, 1), (2, 4, 8)
S1, S2 = ((8, 8), (8, 8), (8, 8)), ((16, 8), (16, 16), (32, 16))


@pytest.mark.parametrize(
    ("batches", "sizes", "wanted"),
    [
        (None, None, [(None, None)]),
        ([B1], None, [(B1, None)]),
        (None, [S1], [(None, S1)]),
        ([B1], [S1], [(B1, S1)]),
        ([B1, B2], None, [(B1, None), (B2, None)]),
        ([B1, B2], [S1], [(B1, S1), (B2, S1)]),
        ([B1], [S1, S2], [(B1, S1), (B1, S2)]),
        ([B1, B2], [S1, S2], [(B1, S1), (B2, S2)]),
        ([B1, B1, B2], [S1, S2, S2], [(B1, S1), (B1, S2), (B2, S2)]),
    ],
)
def test_as_many_profiles_as_the_option_given_most_often(batches, sizes, wanted):
    """Given each option once, as often as the other or not at all -> profile by profile, in their order."""
    assert _shapes(argparse.Namespace(dynamic_batch=batches, dynamic_size=sizes)) == wanted


def test_profiles_that_do_not_pair_up_are_one_line(capsys, exported):
    options = ["--dynamic-batch", "1:1:1", "--dynamic-batch", "2:2:2"]
    sizes = [option for size in ("8:8:8", "9:9:9", "10:10:10") for option in ("--dynamic-size", size)]
    line = refused(capsys, "build", str(exported), *options, *sizes)
    assert "2 --dynamic-batch and 3 --dynamic-size given; wanted as many of both, or one of either" in line


# ------------------------------------------------------------------ output folder


def test_existing_bundle_is_kept_without_force_and_on_failure_with_it(capsys, nets, exported):
    before = Bundle.open(exported).sha256
    job = ["export", f"{nets}:Net", "-o", str(exported), "--input-shape"]
    assert "give --force" in refused(capsys, *job, "1,3,8,8")
    assert "cannot take" in refused(capsys, *job, "1,2,8,8", "--force")
    assert Bundle.open(exported).sha256 == before


@pytest.mark.parametrize("place", ["file", "file/b", "foreign"])
def test_output_that_is_no_place_for_a_bundle(capsys, nets, tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").touch()
    line = refused(capsys, "export", f"{nets}:Net", "--force", "-o", str(tmp_path / place))
    assert "give another -o" in line
    assert (tmp_path / "foreign" / "thesis.txt").exists()


def test_disk_full_is_one_line_and_leaves_nothing(nets, tmp_path):
    """Given a limit on the size of a file → as where the disk is full."""
    limit = (1024, 1024)
    job = ("export", f"{nets}:Net", "--input-shape", "1,3,64,64", "--quiet", "-o", str(tmp_path / "b"))
    with start(
        *job, stdout=subprocess.PIPE, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    ) as run:
        said = run.stderr.read()
    assert (run.returncode, len(said.splitlines())) == (2, 1), said
    assert "File too large" in said
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ bundles


@pytest.mark.parametrize("command", ["inspect", "validate", "build"])
def test_no_bundle_is_one_line(capsys, tmp_path, command):
    assert "not a bundle" in refused(capsys, command, str(tmp_path))


@pytest.mark.parametrize("command", ["inspect", "validate", "build"])
@pytest.mark.parametrize("harm", ["byte", "missing", "extra"])
def test_damaged_bundle_is_one_line(capsys, exported, tmp_path, command, harm):
    copy = tmp_path / "b"
    shutil.copytree(exported, copy)
    model = copy / "model.onnx"
    if harm == "byte":
        data = bytearray(model.read_bytes())
        data[len(data) // 2] ^= 1
        model.write_bytes(data)
    elif harm == "missing":
        model.unlink()
    else:
        (copy / "extra").touch()
    line = refused(capsys, command, str(copy))
    assert {"byte": "model.onnx is damaged", "missing": "model.onnx is missing", "extra": "extra does not"}[
        harm
    ] in line


def test_validate_holds_and_then_fails_where_the_reference_says_otherwise(capsys, exported, tmp_path):
    copy = tmp_path / "b"
    shutil.copytree(exported, copy)
    assert main(["validate", str(copy), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["parities"][-1]["status"] == "held"
    with update_bundle(copy) as draft:
        arrays = dict(np.load(draft.file("reference.npz")))
        arrays["output_0.values"] = arrays["output_0.values"] + 0.01
        np.savez(draft.path("reference.npz"), **arrays)
    assert main(["validate", str(copy), "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["parities"][-1]["status"] == "failed"
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("exporter: ONNX (ONNX Runtime), logits") and ": failed" in said.err


# ------------------------------------------------------------------ what a run prints


def test_json_is_pure_whatever_the_network_prints(capsys, nets, tmp_path):
    job = ["export", f"{nets}:Chatty", "--input-shape", "1,3,8,8", "-o", str(tmp_path / "b"), "--json"]
    assert main(job) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["name"] == "nets"
    assert set(said.err.splitlines()) == {"chatter"}


def test_no_torch_where_none_is_needed(exported, nets, tmp_path):
    """Given commands that list, show, measure, or simplify what is plain already -> none loads PyTorch."""
    plain = exported / "model.onnx"
    lines = [
        ["--help"], ["models"], ["simplify", "--list"], ["simplify", str(plain), "-o", str(tmp_path / "p.onnx")],
        ["inspect", str(exported)], ["bench", str(exported), "--rounds", "1", "--warmup", "0"], ["serve", "--help"],
    ]  # fmt: skip
    code = """
import contextlib, json, sys
from plainconv.exporter.cli import main, serve
from plainconv.engines import serving
for line in json.loads(sys.argv[1]):
    with contextlib.suppress(SystemExit):
        assert main.main([*line, "--quiet"] if line[-1] != "--help" else line) == 0, line
    assert "torch" not in sys.modules, line
"""
    run = subprocess.run([sys.executable, "-c", code, json.dumps(lines)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_inspect_and_models_in_json(capsys, exported):
    assert main(["inspect", str(exported), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["inputs"][0]["shape"] == [1, 3, 8, 8]
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["vanillanet_6"]["parameters_plain"] == pytest.approx(32.51e6, rel=1e-3)


def test_run_says_sizes_parities_accuracy_and_engine(capsys, tmp_path):
    target = tmp_path / "ünï çödé" / "b x"
    job = ["run", "vanillanet_digits", "--checkpoint", str(DIGITS), "--eval-data", str(EVAL), "-o", str(target)]
    assert main([*job, "--quiet", "--targets", "sm80,sm80"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.count("395/397 = 99.50%") == 3
    for words in ("training", "plain network", "tensorrt_rtx", "sm80", "seconds:"):
        assert words in said.out
    assert [path.name for path in target.parent.iterdir()] == ["b x"]


def test_checkpoint_within_its_schedule_warns_and_holds(capsys, tmp_path):
    """Given epoch 9 of a linear schedule over 20 → slope 0.45: exported as it is, not merged, and a warning."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(DIGITS, weights_only=True)
    torch.save(content | {"epoch": 9}, tmp_path / "mid.pth")
    job = ["export", "vanillanet_digits", "--checkpoint", str(tmp_path / "mid.pth"), "-o", str(tmp_path / "b")]
    assert main([*job, "--json"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result["source"]["checkpoint"]["slope"] == pytest.approx(0.45)
    assert {p["status"] for p in result["parities"]} == {"held"}
    (line,) = said.err.splitlines()
    assert line.startswith("exporter: warning: ")
    assert "slope 0.45" in line
    assert "--slope" in line


def test_only_our_warnings_are_shown(capsys):
    with only_our_words():
        warnings.warn("one\ntwo", PlainconvWarning, stacklevel=1)
        warnings.warn("theirs", UserWarning, stacklevel=1)
        warnings.warn("theirs", DeprecationWarning, stacklevel=1)
    assert capsys.readouterr().err == "exporter: warning: one two\n"


def test_interrupt_that_python_drops_is_sent_again():
    """Given a Ctrl-C within the callback of a weak reference → it still interrupts."""

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    dying = {1}
    with pytest.raises(KeyboardInterrupt), _no_interrupt_lost():
        reference = weakref.ref(dying, interrupt)
        del dying
        while True:
            assert reference() is None
            time.sleep(0.001)


def test_debug_shows_where(tmp_path):
    with pytest.raises(Exception, match="no such file"):
        main(["run", "vanillanet_digits", "--checkpoint", "nope.pth", "-o", str(tmp_path / "b"), "--debug"])


# ------------------------------------------------------------------ processes


def start(*arguments: str, **options) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        "-c",
        "import sys; from plainconv.exporter.cli.main import main; sys.exit(main())",
        *arguments,
    ]
    return subprocess.Popen(command, cwd=ROOT, text=True, stderr=subprocess.PIPE, **options)


def test_reader_that_has_seen_enough_is_no_error():
    with start("models", stdout=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full, start("models", stdout=full) as process:
        assert "the output cannot be written (No space left on device)" in process.stderr.read()
    assert process.returncode == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_interrupted_run_keeps_the_old_bundle(exported, tmp_path, number, code):
    """Given a signal while the draft stands beside the old bundle → the old one opens, as it was."""
    target = tmp_path / "b"
    shutil.copytree(exported, target)
    before = Bundle.open(target).sha256
    job = ("run", "vanillanet_digits", "--checkpoint", str(DIGITS), "-o", str(target), "--force", "--quiet")
    with start(*job, stdout=subprocess.DEVNULL) as process:
        while len(list(tmp_path.iterdir())) == 1 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == code, said
    assert Bundle.open(target).sha256 == before
    if number != signal.SIGKILL:
        assert said == "exporter: interrupted; nothing half-made was left behind\n"
        assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_terminal_is_left_as_it_was(nets, tmp_path):
    """Given a terminal → one live display, closed: the cursor is shown again as often as it was hidden."""
    ours, theirs = pty.openpty()
    job = ("export", f"{nets}:Net", "--input-shape", "1,3,8,8", "-o", str(tmp_path / "b"), "--json")
    command = [
        sys.executable,
        "-c",
        "import sys; from plainconv.exporter.cli.main import main; sys.exit(main())",
        *job[:-1],
    ]
    environment = os.environ | {"TERM": "xterm-256color"}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
    os.close(ours)
    assert process.returncode == 0
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") == 1
    assert b"exporting" in shown


def test_a_network_that_nothing_certifies_is_written_and_said_so(nets, tmp_path, capsys):
    """Given an output that does not depend on the input → the bundle, its table, one line and exit code 1."""
    target = tmp_path / "b"
    assert main(["export", f"{nets}:Constant", "--input-shape", "1,3,8,8", "-o", str(target), "--quiet"]) == 1
    said = capsys.readouterr()
    assert Bundle.open(target).manifest.parities and "parity" in said.out
    assert len(said.err.splitlines()) == 1
    assert "was written, but plain network is not certified: the output does not depend on the input" in said.err


def test_closed_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given standard streams that are closed -> their numbers are no other file's, and a command ends well."""
    with monkeypatch.context() as closed:
        for name in ("stdin", "stdout", "stderr"):
            closed.setattr(sys, name, None)
        assert main(["models"]) == 0
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            assert stream.name == os.devnull
            stream.close()


@pytest.mark.skipif(sys.platform != "linux", reason="there is a mallopt in Linux's C library alone")
def test_memory_that_a_command_frees_stays_with_its_process():
    """Given a map of 100 MB that is freed → the next one is made of the same pages."""
    code = """
import resource, sys
import numpy as np
from plainconv.exporter.cli.main import main

main(["models", "--quiet"])
np.ones(100_000_000, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(100_000_000, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, file=sys.stderr)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stderr) < 1000  # of 24,400
