"""Both readers say the same of the same bundle, in the same words."""

import contextlib
import copy
import hashlib
import itertools
import json
import os
import random
import shutil

import pytest
import triton_bundles as bundles
from examples import examples

from plainconv.exporter.bundle import Bundle, Postprocessing
from plainconv.exporter.bundle.presets import preprocessing_given
from plainconv.exporter.errors import BundleError

VALUES = [None, True, -1, 0, 2, 3, 0.5, 1e-7, "", "x", "fp32", "a\\'\"é\x1b\x9b\u202e", "0" * 64, "model.onnx", [], {}]
VALUES += [["x"], {"x": 1}, [[1]], {"x": None}, 2**62, 2**63, -(2**63) - 1, 10**30, 1e300]
"""What a member is changed to."""
KINDS = (None, 1, 0.5, "", [], {}, True)
"""One value of each kind, of which at most two are what a member may be."""
OF_PARSERS = "manifest.json is not JSON ("
"""Where JSON itself is broken, each parser has words of its own from here on."""


def shown(text):
    """`text` as the tool prints it: nothing that a terminal might act on."""
    return "".join("?" if "\ud800" <= c <= "\udfff" else c if c.isprintable() else " " for c in text)


def verdict(folder):
    """What Python's reader says; empty where it opens the bundle."""
    try:
        Bundle.open(folder)
    except BundleError as error:
        return shown(str(error))
    return ""


def check_same(tool, folder, exactly=True):
    """Give what both readers say, which must be the same; `exactly` or but for the words of a JSON parser."""
    done = tool(folder)
    wanted = verdict(folder)
    found = done.stderr.removeprefix("bundle-run: ").removesuffix("\n")
    if not exactly and OF_PARSERS in wanted:
        assert "; it was not written by this program" in found
        assert found.partition(OF_PARSERS)[:2] == wanted.partition(OF_PARSERS)[:2]
    else:
        assert found == wanted
    assert done.returncode == (2 if wanted else 0)
    return wanted


def sealed(data):
    """A manifest of this content with a right hash."""
    return rehashed((json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))


def rehashed(raw):
    """These bytes of a manifest, changed by hand, with a right hash."""
    before = b'\n  "manifest_sha256": "'
    head, _, rest = raw.partition(before)
    own = hashlib.sha256(head + before + b"0" * 64 + rest[64:]).hexdigest().encode()
    return head + before + own + rest[64:]


def members(value, path=()):
    """Every place in a JSON value, but for evidence, which no reader looks into."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        if key not in ("plan", "source", "counts", "parities", "seconds", "reparameterization"):
            yield from members(value[key], (*path, key))


def value_at(data, path):
    for key in path:
        data = data[key]
    return data


def changed(data, path, value):
    """The same with another value at `path`; without it where the value is Ellipsis."""
    data = copy.deepcopy(data)
    at = data
    for key in path[:-1]:
        at = at[key]
    if value is Ellipsis:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return data


@pytest.fixture(scope="session")
def full(tmp_path_factory):
    """A bundle with everything that a manifest may have: two graphs, a split, engines of both, and external data."""
    folder = tmp_path_factory.mktemp("full") / "bundle"
    bundles.make(folder, parts=bundles.FIVE, data=True, fp16=True, cpu=True)
    bundles.add_engines(folder)
    bundles.add_engines(folder, precision="fp16")
    bundles.add_engines(folder, parts=True)
    return folder


@pytest.fixture(params=["digits", "full"])
def folder(request, digits, full, tmp_path):
    return shutil.copytree(digits / "split" if request.param == "digits" else full, tmp_path / "bundle")


def test_a_good_bundle_opens(tool, folder):
    assert check_same(tool, folder) == ""
    assert Bundle.open(folder).sha256 in tool(folder).stdout


def test_any_byte_changed(tool, folder):
    """Given one byte of any file changed, dropped or added -> both refuse it, in the same words."""
    draw = random.Random(0)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        good = path.read_bytes()
        for kind in ("flip", "cut", "add"):
            bad = bytearray(good)
            if kind == "flip":
                bad[draw.randrange(len(bad))] ^= draw.randrange(1, 256)
            path.write_bytes(bytes(bad) if kind == "flip" else bytes(bad[:-1]) if kind == "cut" else good + b"x")
            assert check_same(tool, folder)
        path.write_bytes(good)


def test_any_member_changed(tool, folder):
    """Given a manifest, rightly hashed, with any one member changed or gone -> the same verdict, in the same words."""
    manifest = folder / "manifest.json"
    data = json.loads(manifest.read_bytes())
    draw = random.Random(1)
    places = [path for path in members(data) if path != ("manifest_sha256",)]
    refused = 0
    for path in draw.sample(places, min(examples(100), len(places))):
        manifest.write_bytes(sealed(changed(data, path, draw.choice([Ellipsis, *VALUES]))))
        refused += bool(check_same(tool, folder))
    assert refused > 50


def test_every_key_of_every_record_in_every_kind(tool, folder):
    """Given keys (of several records of a kind the last) as any kind of value, and missing -> the same."""
    manifest = folder / "manifest.json"
    data = json.loads(manifest.read_bytes())
    kinds = {tuple("*" if isinstance(key, int) else key for key in path): path for path in members(data)}
    places = [path for kind, path in kinds.items() if kind[0] not in ("manifest_sha256", "files", "tools")]
    assert len(places) > 30
    changes = list(itertools.product(places, [Ellipsis, *KINDS]))
    for path, value in random.Random(7).sample(changes, min(len(changes), examples(100))):
        manifest.write_bytes(sealed(changed(data, path, value)))
        check_same(tool, folder)


SAID = {
    "preprocessing": {
        **preprocessing_given({"color": "gray", "resize": {"rule": "exact", "size": [32, 32]}}).as_json(),
        "resize": {"rule": "letterbox", "size": [32, 32], "interpolation": "bicubic", "antialias": False},
        "letterbox": {"value": [114], "stride": None, "place": "centre"},
    },
    "postprocessing": Postprocessing("classify", output="logits").as_json(),
    "classes": list("abcdefghij"),
}
OF_IMAGES = (1, 2, 1.0, 0, -1, 1e-9, 2**70, 0.5, "gray", "bgr", "nhwc", "shortest", "longest", "detect", "none",
             "segment", "rows", [32, 32], [32], 10, [1, 2, 3], ["a"], [], 300, "uint8", "logits", 8)  # fmt: skip


@pytest.mark.parametrize("kind", ["classify", "detect", "crops"])
def test_what_is_said_of_images(tool, digits, tmp_path, kind):
    """Given members of what is said of images, one and several, as other values, gone, and new -> the same verdict."""
    folder = shutil.copytree(digits / "split", tmp_path / "bundle")
    manifest = folder / "manifest.json"
    data = json.loads(manifest.read_bytes()) | copy.deepcopy(SAID)
    if kind == "detect":
        names = dict.fromkeys(("boxes", "scores", "labels", "count", "masks"), "logits")
        data["postprocessing"] = Postprocessing("detect", form="final", **names).as_json()
    elif kind == "crops":
        data["preprocessing"] = preprocessing_given({"color": "gray", "crop": [32, 32], "crops": 10}).as_json()
    manifest.write_bytes(sealed(data))
    assert ("wanted real numbers of 3 axes" in check_same(tool, folder)) == (kind == "detect")
    draw = random.Random(5)
    places = [(key, *path) for key in SAID for path in [(), *members(data[key])]] + [("preprocessing", "gamma")]
    single = [(path, value) for path in places[:-1] for value in (Ellipsis, *KINDS, *OF_IMAGES)]
    for path, value in [*draw.sample(single, min(len(single), examples(40))), (places[-1], 1)]:
        manifest.write_bytes(sealed(changed(data, path, value)))
        check_same(tool, folder)
    for _ in range(examples(20)):
        bad = data
        for path in draw.sample(places, 3):
            with contextlib.suppress(KeyError, TypeError, IndexError):
                bad = changed(bad, path, draw.choice(OF_IMAGES))
        manifest.write_bytes(sealed(bad))
        check_same(tool, folder)


def test_several_members_changed(tool, folder):
    """Given several damages at once -> both name the same one first, and count the same number."""
    manifest = folder / "manifest.json"
    data = json.loads(manifest.read_bytes())
    draw = random.Random(2)
    places = [path for path in members(data) if path != ("manifest_sha256",)]
    texts = [path for path in places if isinstance(value_at(data, path), str | int)]
    counted = 0
    for _ in range(examples(80)):
        bad = data
        for path in draw.sample(texts, draw.randrange(2, 6)):
            like = [value for value in VALUES if type(value) is type(value_at(data, path))]
            bad = changed(bad, path, draw.choice([value_at(data, draw.choice(texts)), *like]))
        manifest.write_bytes(sealed(bad))
        counted += " more)" in check_same(tool, folder)
    assert counted > 10


def test_members_exchanged(tool, folder):
    """Given records that trade places, are there twice, or lose one -> the same verdict."""
    manifest = folder / "manifest.json"
    data = json.loads(manifest.read_bytes())
    draw = random.Random(3)
    lists = [path for path in members(data) if isinstance(value_at(data, path), list) and value_at(data, path)]
    refused = 0
    for _ in range(200):
        path = draw.choice(lists)
        items = list(value_at(data, path))
        kind = draw.choice(("swap", "double", "drop", "empty"))
        at, other = draw.randrange(len(items)), draw.randrange(len(items))
        if kind == "swap":
            items[at], items[other] = items[other], items[at]
        elif kind == "double":
            items.insert(other, items[at])
        else:
            items = [item for i, item in enumerate(items) if kind == "drop" and i != at]
        manifest.write_bytes(sealed(changed(data, path, items)))
        refused += bool(check_same(tool, folder))
    assert refused > 50


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ("stem", "STEM", "two of one name"),
        ("Ärm", "ärM", "two of one name"),
        ("Σ", "σ", "two of one name"),
        ("ß", "ẞ", "two of one name"),
        ("stem", "stém", "reads"),
    ],
)
def test_names_of_parts_that_differ_only_in_case(tool, full, tmp_path, first, second, wanted):
    folder = shutil.copytree(full, tmp_path / "bundle")
    data = json.loads((folder / "manifest.json").read_bytes())
    data["splits"][0]["parts"][0]["name"] = first
    data["splits"][0]["parts"][1]["name"] = second
    (folder / "manifest.json").write_bytes(sealed(data))
    assert wanted in check_same(tool, folder)


def at_the_end(text):
    """The manifest with one more member, `text`, at the end."""
    return lambda raw: raw.removesuffix(b"\n}\n") + b',\n  "zz": ' + text + b"\n}\n"


BROKEN = {
    "a key twice": at_the_end(b'1,\n  "zz": 2'),
    "a key twice, one escaped": at_the_end(b'{"a": 1, "\\u0061": 2}'),
    "an array": lambda raw: b"[\n" + raw[2:-3] + b"\n]\n",
    "a comma too many": lambda raw: raw.removesuffix(b"\n}\n") + b",\n}\n",
    "something behind it": lambda raw: raw + b"{}",
    "a NUL behind it": lambda raw: raw + b"\0",
    "a NUL behind it, and more": lambda raw: raw + b"\0{",
    "a control character": at_the_end(b'"\x01"'),
    "a byte order mark": lambda raw: b"\xef\xbb\xbf" + raw,
    "no UTF-8": at_the_end(b'"\xff"'),
    "UTF-8 that is too long": at_the_end(b'"\xc0\x80"'),
    "half a pair in UTF-8": at_the_end(b'"\xed\xa0\x80"'),
    "half a pair": at_the_end(b'"\\ud800"'),
    "half a pair as a key": at_the_end(b'{"\\udc00": 1}'),
    "a form feed": at_the_end(b"\x0c1"),
    "NaN": at_the_end(b"NaN"),
    "infinity": at_the_end(b"[-Infinity]"),
    "beyond float64": at_the_end(b"1e999"),
    "an integer beyond float64": at_the_end(b"1" + b"0" * 400),
    "a leading zero": at_the_end(b"01"),
    "no digits": at_the_end(b"1."),
    "a comment": at_the_end(b"1 // one"),
    "too deep": at_the_end(b"[" * 500 + b"]" * 500),
    "much too deep": at_the_end(b"[" * 100_000 + b"]" * 100_000),
    "objects too deep": at_the_end(b'{"a":' * 500 + b"1" + b"}" * 500),
}
GOOD = {
    "a pair": at_the_end(b'"\\ud83d\\ude00"'),
    "a big integer": at_the_end(b"1" + b"0" * 300),
    "the smallest number": at_the_end(b"1e-999"),
    "deep": at_the_end(b"[" * 499 + b"]" * 499),
    "an escaped NUL": at_the_end(b'"\\u0000"'),
    "other white space": at_the_end(b"\r\t 1"),
}


@pytest.mark.parametrize("name", [*BROKEN, *GOOD])
def test_text_that_is_no_json(tool, full, tmp_path, name):
    """Given bytes, rightly hashed, that are no JSON object -> both refuse them as such; others both take."""
    folder = shutil.copytree(full, tmp_path / "bundle")
    manifest = folder / "manifest.json"
    manifest.write_bytes(rehashed((BROKEN | GOOD)[name](manifest.read_bytes())))
    assert check_same(tool, folder, exactly="twice" in name) == "" or name in BROKEN
    assert name in GOOD or "manifest.json is not JSON" in verdict(folder)


def test_a_manifest_of_any_bytes(tool, full, tmp_path):
    """Given manifests, rightly hashed, with a few bytes changed anywhere -> the same verdict."""
    folder = shutil.copytree(full, tmp_path / "bundle")
    manifest = folder / "manifest.json"
    good = manifest.read_bytes()
    draw = random.Random(4)
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(draw.randrange(1, 3)):
            at = draw.randrange(len(bad))
            bad[at : at + draw.randrange(3)] = draw.choice(
                [b"", b"0", b'"', b",", b"{", b"]", b"\xe9", b"\\", b"e1", b"null"]
            )
        manifest.write_bytes(rehashed(bytes(bad)))
        check_same(tool, folder, exactly=False)


@pytest.mark.parametrize("size", [64 * 2**20, 64 * 2**20 + 1])
def test_a_manifest_at_its_largest(tool, full, tmp_path, size):
    folder = shutil.copytree(full, tmp_path / "bundle")
    manifest = folder / "manifest.json"
    raw = manifest.read_bytes()
    manifest.write_bytes(rehashed(raw + b" " * (size - len(raw))))
    assert ("is larger than 67108864 bytes" in check_same(tool, folder)) == (size > 64 * 2**20)


def deep_folder(folder):
    (folder / "a" / "b").mkdir(parents=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "model.onnx").unlink(),
        lambda f: (f / "notes.txt").write_text("x"),
        lambda f: (f / "model.onnx").rename(f / "parts" / "model.onnx"),
        lambda f: (f / "empty").mkdir(),
        deep_folder,
        lambda f: os.mkfifo(f / "pipe"),
        lambda f: ((f / "parts").rename(f.parent / "moved"), (f / "parts").symlink_to(f.parent / "moved")),
        lambda f: ((f / "model.onnx").unlink(), (f / "model.onnx").symlink_to("/dev/null")),
        lambda f: ((f / "manifest.json").rename(f.parent / "m"), (f / "manifest.json").symlink_to(f.parent / "m")),
        lambda f: (f / "manifest.json").unlink(),
        lambda f: (f / "manifest.json").write_bytes(b""),
        lambda f: f.rename(f.with_name(".bundle.old-7-00c0ffee")),
        lambda f: (shutil.rmtree(f), f.write_text("a file")),
        lambda f: ((f / "model.onnx").unlink(), (f / "model.onnx").mkdir()),
        lambda f: (f / "notes\n\x1b[31m.txt").write_text("x"),
        lambda f: (f / os.fsdecode(b"caf\xe9")).write_text("x"),
        lambda f: ((f / "a").mkdir(), (f / "a" / "x").write_text("x"), (f / "b").write_text("x"), (f / "pipe").mkdir()),
        lambda f: (f / "parts" / "loop").symlink_to(f),
        lambda f: (f / "manifest.json").write_bytes(b"\0" * 100),
        lambda f: ((f / "manifest.json").unlink(), (f / "manifest.json").mkdir()),
        lambda f: (shutil.rmtree(f), f.symlink_to(f)),
    ],
)
def test_folders_that_are_no_bundle(tool, folder, damage):
    damage(folder)
    assert check_same(tool, folder)
