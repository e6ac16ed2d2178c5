import gzip
import hashlib
import io
import os
import pickle
import stat
import subprocess
import sys
import tarfile
import threading
import time
import warnings
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from spikiness import images
from spikiness.errors import CorruptArtifact, SpikinessError
from spikiness.images import archives, download, folders, sources

DATA = Path(os.environ.get("SPIKINESS_DATA") or "/nonexistent")
needs_mnist = pytest.mark.skipif(not (DATA / "MNIST/raw").is_dir(), reason="no MNIST under $SPIKINESS_DATA")
needs_cifar = pytest.mark.skipif(
    not (DATA / "cifar10-jpeg.zip").is_file(), reason="no cifar10-jpeg.zip under $SPIKINESS_DATA"
)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty data folder and cache, and no way to the network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *a, **k: str(tmp_path / "cache"))
    monkeypatch.setenv("SPIKINESS_DATA", str(tmp_path / "data"))
    for scheme in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))  # pauses between attempts
    return tmp_path


# ---------------------------------------------------------------- digits, subsets, names


def test_digits_are_scikit_learns_split_once_and_stratified():
    train, test = images.load("digits"), images.load("digits", "test")
    assert train.x.shape == (1400, 1, 8, 8)
    assert test.x.shape == (397, 1, 8, 8)
    assert (train.x.dtype, train.y.dtype, train.name, train.note) == (torch.float32, torch.int64, "digits", "")
    both = torch.cat([train.x, test.x]).flatten(1).double()
    truth = load_digits()
    rows = lambda a: sorted(map(tuple, a))  # noqa: E731
    assert rows(((both + 1) * 8).tolist()) == rows(truth.data.tolist())  # every digit once, so the parts are disjoint
    share = np.bincount(truth.target) * 1400 / 1797
    assert np.abs(np.bincount(train.y.numpy()) - share).max() <= 1
    labels = {tuple(row): label for row, label in zip(truth.data.tolist(), truth.target, strict=True)}
    assert [labels[tuple(row)] for row in ((test.x + 1) * 8).flatten(1).tolist()] == test.y.tolist()


def test_other_digits_are_refused(monkeypatch):
    # of all values in order, both parts: a library that draws another split would change published numbers
    both = [((images.load("digits", split).x + 1) * 8).byte().numpy().tobytes() for split in ("train", "test")]
    assert images.fingerprint("digits") == hashlib.sha256(b"".join(both)).hexdigest()
    assert images.fingerprint("digits") == "d67e6500a0b361994083b4d78c9ef5bc7dc9e97aefe19a7f2dafd50195c687f3"
    other = load_digits()
    other.images[0, 0, 0] += 1
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: other)
    with pytest.raises(CorruptArtifact, match="other digits"):
        images.load("digits")


def test_the_number_of_digits_is_known_without_reading_them():
    assert sources.TRAINING_IMAGES["digits"] == len(load_digits().target) - 397


def test_subsets_are_seeded_nested_and_without_replacement():
    a, b, other = (images.load("digits", n=n, seed=s) for n, s in ((50, 1), (200, 1), (50, 2)))
    assert torch.equal(a.x, b.x[:50])
    assert torch.equal(a.y, b.y[:50])
    assert not torch.equal(a.y, other.y)
    everything = images.subset(torch.arange(1400), 1400, seed=3)
    assert sorted(everything.tolist()) == list(range(1400))


@pytest.mark.parametrize("n", [1401, 60_000])
def test_too_large_n_names_what_is_there(n):
    with pytest.raises(SpikinessError, match=rf"n = {n} is more than the 1400 digits train images"):
        images.load("digits", n=n)


def test_n_larger_than_a_class_is_refused():
    digits = images.load("digits", "test")
    sevens = digits.x[digits.y == 7]
    assert len(images.subset(sevens, len(sevens))) == len(sevens)
    with pytest.raises(SpikinessError, match=f"more than the {len(sevens)} sevens"):
        images.subset(sevens, len(sevens) + 1, what="sevens")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "mnits"}, "did you mean 'mnist'"),
        ({"name": "MNIST"}, "did you mean 'mnist'"),
        ({"name": "my.npz"}, "did you mean 'npz:my.npz'"),
        ({"name": None}, "data None is unknown"),
        ({"name": "digits:x"}, "is unknown"),
        ({"name": "npz"}, "npz:PATH"),
        ({"name": "folder:"}, "folder:PATH"),
        ({"name": "folder:/no/such/place"}, "no file or folder /no/such/place"),
        ({"name": "npz:" + "x" * 300}, "no file or folder"),
        ({"name": "npz:/dev/zero"}, "no file or folder /dev/zero"),
        ({"name": "digits", "split": "tset"}, "did you mean 'test'"),
        ({"name": "digits", "split": "val"}, "use one of train, test"),
        ({"name": "digits", "n": 0}, "n = 0 must be a whole number of at least 1"),
        ({"name": "digits", "n": -5}, "n = -5"),
        ({"name": "digits", "n": 2.5}, "n = 2.5"),
        ({"name": "digits", "n": "abc"}, "n = 'abc'"),
        ({"name": "digits", "n": True}, "n = True"),
        ({"name": "digits", "n": float("nan")}, "n = nan"),
        ({"name": "digits", "seed": -1}, "seed = -1"),
        ({"name": "digits", "size": 0}, "size = 0"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(SpikinessError) as error:
        images.load(**arguments)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- real data


@needs_mnist
def test_mnist_is_the_real_one():
    before = sorted(DATA.rglob("*"))
    train = images.load("mnist")
    assert train.x.shape == (60_000, 1, 28, 28)
    unit = (train.x + 1) / 2
    assert float(unit.mean()) == pytest.approx(0.1307, abs=5e-5)  # the constants of every MNIST tutorial
    assert float(unit.std()) == pytest.approx(0.3081, abs=5e-5)
    assert train.y[:5].tolist() == [5, 0, 4, 1, 9]
    assert train.y.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test = images.load("mnist", "test", n=10_000)
    assert test.y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert images.check(test.x, channels=1, size=28) is test.x
    with pytest.raises(SpikinessError, match="n = 60001 is more than the 60000 mnist train"):
        images.load("mnist", n=60_001)
    assert sorted(DATA.rglob("*")) == before  # read where it is, nothing unpacked beside it


@needs_cifar
def test_recompressed_cifar_says_so():
    train = images.load("folder:cifar10-jpeg.zip", n=600)  # found below $SPIKINESS_DATA
    assert train.x.shape == (600, 3, 32, 32)
    assert (train.name, train.note) == ("folder:cifar10-jpeg.zip", "recompressed as JPEG")
    means = ((train.x + 1) / 2).mean((0, 2, 3))
    torch.testing.assert_close(means, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.03, rtol=0)  # CIFAR10's own
    assert train.y.bincount().min() > 30


@needs_cifar
def test_cifar10_never_means_the_recompressed_copy(home):
    (home / "data").mkdir()
    (home / "data/cifar10-jpeg.zip").symlink_to(DATA / "cifar10-jpeg.zip")
    with pytest.raises(SpikinessError, match=r"load\('folder:.*cifar10-jpeg.zip'\) reads a recompressed copy"):
        images.load("cifar10", download=False)


# ---------------------------------------------------------------- a small MNIST on a local server


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(int(s).to_bytes(4, "big") for s in array.shape)
    return b"\0\0\x08" + bytes([array.ndim]) + sizes + array.tobytes()


def small_mnist() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for prefix, n in (("train", 7), ("t10k", 3)):
        files[f"{prefix}-images-idx3-ubyte.gz"] = idx(rng.integers(0, 256, (n, 28, 28)).astype(np.uint8))
        files[f"{prefix}-labels-idx1-ubyte.gz"] = idx(rng.integers(0, 10, n).astype(np.uint8))
    return files


class Server(ThreadingHTTPServer):
    """Serves `files`; `behave` maps a name to a list of misdeeds, used up one a request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.behave: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request, client_address):  # a client that hung up is part of the tests
        pass


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def answer(self, code: int, body: bytes, length: int | None = None):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.server.asked.append(name)
        misdeeds, data = self.server.behave.get(name), self.server.files.get(name, b"")
        misdeed = misdeeds.pop(0) if misdeeds else ""
        if misdeed == "truncate":
            self.answer(200, data[: len(data) // 2], len(data))
        elif misdeed == "html":
            self.answer(200, b"<!DOCTYPE html><title>Please log in</title>")
        elif misdeed == "alter":
            self.answer(200, data[:-1] + bytes([data[-1] ^ 1]))
        elif misdeed == "404":
            self.answer(404, b"gone")
        elif misdeed == "503":
            self.answer(503, b"busy")
        elif misdeed == "stall":
            self.answer(200, data[:10], len(data))
            self.server.over.wait(20)
        elif misdeed == "redirect":
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}elsewhere/{name}")
            self.end_headers()
        else:
            self.answer(200, data)


@pytest.fixture
def server(home, monkeypatch):
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    plain = small_mnist()
    server.files = {name: gzip.compress(data, mtime=0) for name, data in plain.items()}
    published = {f"MNIST/raw/{name}": ([server.url + name], md5(data)) for name, data in server.files.items()}
    monkeypatch.setattr(sources, "_published", lambda name: published)
    monkeypatch.setitem(sources.IDX_MD5, "mnist", {name: md5(data) for name, data in plain.items()})
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_download_once_then_from_disk(home, server):
    first = images.load("mnist")
    assert server.asked == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
    pixels = np.frombuffer(small_mnist()["train-images-idx3-ubyte.gz"], np.uint8, offset=16).reshape(7, 1, 28, 28)
    np.testing.assert_allclose(first.x.numpy(), pixels / 127.5 - 1, atol=1e-6)
    assert float(first.x.min()) >= -1
    server.files = {}
    again = images.load("mnist", download=False)
    assert torch.equal(again.x, first.x)
    assert torch.equal(again.y, first.y)
    assert len(server.asked) == 2
    assert sorted(p.name for p in (home / "data/MNIST/raw").iterdir()) == [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    ]


@pytest.mark.parametrize("misdeed", ["truncate", "html", "alter", "503", "stall", "redirect"])
def test_a_failed_download_is_tried_again(home, server, monkeypatch, misdeed):
    monkeypatch.setattr(download, "STALL_SECONDS", 0.3)
    server.behave["train-images-idx3-ubyte.gz"] = [misdeed]
    assert images.load("mnist").x.shape == (7, 1, 28, 28)
    assert server.asked.count("train-images-idx3-ubyte.gz") == 2
    files = [path for path in home.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o644}  # colleagues can read them


@pytest.mark.parametrize(
    ("misdeed", "words"),
    [
        ("truncate", "IncompleteRead"),
        ("html", "expected"),
        ("alter", "expected"),
        ("404", "404"),
        ("503", "503"),
        ("stall", "timed out"),
        ("redirect", "expected"),
    ],
)
def test_a_lasting_failure_is_one_error_and_leaves_nothing(home, server, monkeypatch, misdeed, words):
    monkeypatch.setattr(download, "STALL_SECONDS", 0.2)
    server.behave["train-images-idx3-ubyte.gz"] = [misdeed] * 9
    with pytest.raises(SpikinessError) as error:
        images.load("mnist")
    message = str(error.value)
    assert words in message
    for way in (f"into {home / 'data/MNIST/raw'}", "set SPIKINESS_DATA, or root", 'data="digits"'):
        assert way in message
    assert server.asked == ["train-images-idx3-ubyte.gz"] * 3  # a redirect is not followed
    assert [p for p in home.rglob("*") if p.is_file()] == []


def test_wrong_content_states_expected_and_got(home, server):
    name = "train-images-idx3-ubyte.gz"
    server.behave[name] = ["alter"] * 9
    good = server.files[name]
    with pytest.raises(
        SpikinessError, match=f"expected md5:{md5(good)} but got {md5(good[:-1] + bytes([good[-1] ^ 1]))}"
    ):
        images.load("mnist")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_known_files_are_published_by_https_where_torchvision_would_put_them(name):
    published = sources._published(name)
    assert all(url.startswith("https://") for urls, _ in published.values() for url in urls)
    assert all(urls for urls, _ in published.values())
    wanted = {f"{sources.IDX_FOLDERS[name]}/{file}" for file in sources.IDX_MD5[name]} if "mnist" in name else None
    assert published.keys() == (wanted or {"cifar-10-python.tar.gz"})


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_no_network_and_no_cache_is_one_error_with_three_ways(home, name):
    start = time.monotonic()
    with pytest.raises(SpikinessError) as error:
        images.load(name)
    assert time.monotonic() - start < 60  # bounded, not a speed test
    message = str(error.value)
    for words in (f"'{name}' is not in", "the download failed", "into", "SPIKINESS_DATA, or root", 'data="digits"'):
        assert words in message
    assert images.load("digits").x.shape[0] == 1400


def test_download_false_asks_nobody(home, server):
    with pytest.raises(SpikinessError, match=r"download=False\. Three ways on"):
        images.load("mnist", download=False)
    assert server.asked == []


def test_disk_full_is_named_and_leaves_nothing(home, server, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pooch.core.shutil.move", full)
    with pytest.raises(SpikinessError, match=r"no room for .*train-images-idx3-ubyte.gz: No space left"):
        images.load("mnist")
    assert [p for p in home.rglob("*") if p.is_file()] == []


def fill(server: Server, root: Path) -> Path:
    raw = root / "MNIST/raw"
    raw.mkdir(parents=True)
    for name, data in server.files.items():
        (raw / name).write_bytes(data)
    return raw


def test_root_is_read_only(home, server):
    raw = fill(server, home / "mine")
    before = {p: p.stat().st_mtime_ns for p in (home / "mine").rglob("*")}
    for folder in (raw, raw.parent, home / "mine"):
        folder.chmod(0o555)
    assert len(images.load("mnist", root=home / "mine").x) == 7
    for folder in (home / "mine", raw.parent, raw):
        folder.chmod(0o755)
    assert {p: p.stat().st_mtime_ns for p in (home / "mine").rglob("*")} == before
    assert server.asked == []


def test_where_root_cannot_be_written_the_cache_is(home, server, monkeypatch):
    (home / "data").write_text("a file, so nothing can be made below it")
    assert len(images.load("mnist", "test").x) == 3
    assert (home / "cache/data/MNIST/raw/t10k-labels-idx1-ubyte.gz").is_file()
    (home / "block").write_text("")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *a, **k: str(home / "block"))
    with pytest.raises(SpikinessError, match=r"cannot write to .* nor .*; set SPIKINESS_DATA"):
        images.load("mnist", "test")


def test_every_altered_or_truncated_cache_is_refused(home, server):
    raw = fill(server, home / "data")
    path = raw / "train-images-idx3-ubyte.gz"
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    truth = images.load("mnist").x
    refusals = []
    for trial in range(60):
        broken = bytearray(whole)
        if trial % 2:
            del broken[int(rng.integers(len(whole))) :]
        else:
            broken[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            assert torch.equal(images.load("mnist").x, truth)  # a flip in gzip's header leaves the content as it was
        except CorruptArtifact as error:
            refusals.append(str(error))
    assert len(refusals) >= 50
    assert all("expected md5" in message and str(path) in message for message in refusals)
    assert server.asked == []  # a user's file is never overwritten


def test_a_web_page_kept_as_data_is_called_one(home, server):
    (fill(server, home / "data") / "train-images-idx3-ubyte.gz").write_bytes(b"<html><body>403</body></html>")
    with pytest.raises(CorruptArtifact, match="it is a web page"):
        images.load("mnist")


def test_packing_again_does_not_matter(home, server):
    raw = fill(server, home / "data")
    truth = images.load("mnist").x
    for path in raw.iterdir():
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
    assert torch.equal(images.load("mnist").x, truth)


def test_two_processes_at_once(home, server):
    target = home / "shared" / "x.gz"
    target.parent.mkdir()
    server.files["x.gz"] = data = np.random.default_rng(0).bytes(3_000_000)
    code = (  # the module by its file: the package would import torch, for seconds
        "import sys, importlib.util as u; from pathlib import Path;"
        "spec = u.spec_from_file_location('download', sys.argv[4]); d = u.module_from_spec(spec);"
        "spec.loader.exec_module(d); print('ready', flush=True); sys.stdin.readline(); md5 = sys.argv[3];"
        "print(len(d.read_verified(d.fetch([sys.argv[1]], Path(sys.argv[2]), md5), md5)))"
    )
    command = [sys.executable, "-c", code, server.url + "x.gz", str(target), md5(data), download.__file__]
    two = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [p.stdout.readline() for p in two] == ["ready\n"] * 2
    for p in two:
        p.stdin.write("go\n")
        p.stdin.flush()
    assert [p.communicate(timeout=60)[0] for p in two] == ["3000000\n"] * 2
    assert [p.returncode for p in two] == [0, 0]
    assert [p.name for p in target.parent.iterdir()] == ["x.gz"]


# ---------------------------------------------------------------- CIFAR10


def tar_gz(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def member(name: str, data: bytes, **more) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def cifar_records(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3, 32, 32)).astype(np.uint8), rng.integers(0, 10, n).astype(np.uint8)


def python2_batch(x: np.ndarray, y: np.ndarray) -> bytes:
    """A CIFAR batch as Python 2 and its numpy pickled it, opcode by opcode."""
    raw = x.tobytes()
    n, size = len(x).to_bytes(4, "little"), (3072).to_bytes(4, "little")
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01J" + n + b"J" + size + b"\x86"
        b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    )
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in y) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + labels + b"u."


def put_python(monkeypatch, folder: Path, batch: bytes, archive: bool):
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(batch)]])
    folder.mkdir(exist_ok=True)
    if archive:
        packed = tar_gz([member("cifar-10-batches-py/test_batch", batch)])
        (folder / "cifar-10-python.tar.gz").write_bytes(packed)
        monkeypatch.setattr(CIFAR10, "tgz_md5", md5(packed))
    else:
        (folder / "cifar-10-batches-py").mkdir()
        (folder / "cifar-10-batches-py/test_batch").write_bytes(batch)


def test_a_swapped_archive_is_not_even_opened(home, monkeypatch):
    put_python(monkeypatch, home / "data", python2_batch(*cifar_records(4, 0)), archive=True)
    path = home / "data/cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes() + b"!")
    monkeypatch.setattr(tarfile, "open", lambda *a, **k: pytest.fail("opened before its checksum was verified"))
    with pytest.raises(CorruptArtifact, match="expected md5"):
        images.load("cifar10", "test")


@pytest.mark.parametrize("archive", [True, False])
def test_the_python_version_is_read_as_arrays_only(home, monkeypatch, archive):
    x, y = cifar_records(4, 0)
    batch = python2_batch(x, y)
    assert pickle.loads(batch.replace(b"numpy.core.", b"numpy._core."), encoding="latin1")["labels"] == y.tolist()
    put_python(monkeypatch, home / "data", batch, archive)
    test = images.load("cifar10", "test", download=False)
    np.testing.assert_allclose(test.x.numpy(), x / 127.5 - 1, atol=1e-6)
    assert test.y.tolist() == y.tolist()
    unpacked = {path.name for path in (home / "data").iterdir()}
    assert unpacked == {"cifar-10-python.tar.gz" if archive else "cifar-10-batches-py"}  # read where it is


class Touch:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_malicious_pickle_never_runs(home, monkeypatch):
    put_python(monkeypatch, home / "data", pickle.dumps({"data": Touch(home / "ran"), "labels": []}, 2), archive=False)
    with pytest.raises(CorruptArtifact, match="only arrays are read"):  # even with the right checksum
        images.load("cifar10", "test")
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", "0" * 32]])
    with pytest.raises(CorruptArtifact, match="expected md5 00000000"):
        images.load("cifar10", "test")
    assert not (home / "ran").exists()


# ---------------------------------------------------------------- npz


def save_npz(path: Path, **changes) -> str:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 6), ("val", 2), ("test", 3)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 9, 7, 3)).astype(np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 5, (n, 1))
    arrays |= changes
    np.savez_compressed(path, **arrays)
    return f"npz:{path}"


def test_npz_with_medmnist_keys(tmp_path):
    name = save_npz(tmp_path / "a.npz")
    for split, n in (("train", 6), ("val", 2), ("test", 3)):
        loaded = images.load(name, split)
        assert loaded.x.shape == (n, 3, 9, 7)
        with np.load(tmp_path / "a.npz") as truth:
            np.testing.assert_allclose(
                loaded.x.permute(0, 2, 3, 1).numpy(), truth[f"{split}_images"] / 127.5 - 1, atol=1e-6
            )
            assert loaded.y.tolist() == truth[f"{split}_labels"][:, 0].tolist()
        assert loaded.name == "npz:a.npz"
    gray = save_npz(tmp_path / "b.npz", train_images=np.zeros((6, 5, 5), np.uint8), train_labels=np.arange(6))
    assert images.load(gray).x.shape == (6, 1, 5, 5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_images": np.zeros((6, 5, 5), np.float32)}, "is float32; pixels must be uint8"),
        ({"train_images": np.zeros((6, 3, 5, 5), np.uint8)}, r"\[N, H, W, 1 or 3\] wanted"),
        ({"train_images": np.zeros((0, 5, 5), np.uint8)}, "wanted"),
        ({"train_labels": np.zeros((6, 14), np.int64)}, "one whole number for each"),
        ({"train_labels": np.zeros(5, np.int64)}, "one whole number for each"),
        ({"train_labels": np.zeros(6)}, "one whole number for each"),
    ],
)
def test_npz_of_other_types_and_shapes(tmp_path, changes, words):
    with pytest.raises(SpikinessError, match=words):
        images.load(save_npz(tmp_path / "a.npz", **changes))


def test_npz_with_objects_never_runs(tmp_path):
    hostile = np.array([Touch(tmp_path / "ran")] * 6, dtype=object)
    with pytest.raises(CorruptArtifact, match="cannot be read"):
        images.load(save_npz(tmp_path / "a.npz", train_labels=hostile))
    assert not (tmp_path / "ran").exists()


def test_npz_bombs_and_other_keys(tmp_path, monkeypatch):
    name = save_npz(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=np.zeros(3))
    with pytest.raises(SpikinessError, match="has no 'train_images' and 'train_labels'; its arrays are x"):
        images.load(f"npz:{tmp_path / 'b.npz'}")
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000000, 1000000), }"
    lie = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 16
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("train_images.npy", lie)
        archive.writestr("train_labels.npy", lie)
    with pytest.raises(CorruptArtifact, match="train_images cannot be read"):
        images.load(f"npz:{tmp_path / 'c.npz'}")
    monkeypatch.setattr(archives, "MAX_BYTES", 100)
    with pytest.raises(CorruptArtifact, match="at most 100 are read"):
        images.load(name)


def test_broken_npz_never_gives_other_pixels(tmp_path):
    name = save_npz(tmp_path / "a.npz")
    whole, rng = (tmp_path / "a.npz").read_bytes(), np.random.default_rng(1)
    truth, refusals = images.load(name).x, []
    for trial in range(80):
        broken = bytearray(whole)
        if trial % 2:
            del broken[int(rng.integers(len(whole))) :]
        else:
            broken[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        (tmp_path / "a.npz").write_bytes(broken)
        try:
            assert torch.equal(images.load(name).x, truth)
        except SpikinessError as error:
            refusals.append(str(error))
    assert len(refusals) >= 50
    assert all("a.npz" in message for message in refusals)


# ---------------------------------------------------------------- folders and zips


def picture(seed: int, shape=(6, 5, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind)
    return out.getvalue()


def make_folder(root: Path, files: dict[str, bytes]) -> str:
    root.mkdir(exist_ok=True)
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return f"folder:{root}"


def make_zip(path: Path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return f"folder:{path}"


def splits() -> dict[str, bytes]:
    names = ["train/dog/a.png", "train/cat/a.png", "train/cat/b.png", "test/dog/a.png", "test/emu/a.png"]
    return {name: encoded(picture(i)) for i, name in enumerate(names)}


@pytest.mark.parametrize("make", [make_folder, make_zip])
def test_class_folders(tmp_path, make):
    junk = {"README.txt": b"hello", "__MACOSX/train/cat/._a.png": b"x", "train/cat/.DS_Store": b"x"}
    name = make(tmp_path / "pets.zip", splits() | junk)
    train, test = images.load(name), images.load(name, "test")
    assert train.y.tolist() == [0, 0, 1]  # cat, cat, dog
    assert test.y.tolist() == [1, 2]  # dog, emu: numbered over all splits
    expected = np.stack([picture(i) for i in (1, 2, 0)]).transpose(0, 3, 1, 2) / 127.5 - 1
    np.testing.assert_allclose(train.x.numpy(), expected, atol=1e-6)
    assert (train.name, train.note) == ("folder:pets.zip", "")  # no path of this machine
    one = images.load(name, n=1, seed=4)
    where = int(images.subset(torch.arange(3), 1, 4))
    assert torch.equal(one.x[0], train.x[where])
    assert one.y[0] == train.y[where]
    with pytest.raises(SpikinessError, match=r"split 'val' is not in .* which has test and train"):
        images.load(name, "val")


@pytest.mark.parametrize("make", [make_folder, make_zip])
def test_plain_classes_gray_and_color(tmp_path, make):
    files = {"b/1.png": encoded(picture(1)), "a/2.png": encoded(picture(2, (6, 5)))}
    loaded = images.load(make(tmp_path / "x", files))
    assert loaded.x.shape == (2, 3, 6, 5)
    np.testing.assert_allclose(loaded.x[0, 2].numpy(), picture(2, (6, 5)) / 127.5 - 1, atol=1e-6)
    gray = images.load(make(tmp_path / "y", {"a/2.png": files["a/2.png"]}))
    assert gray.x.shape == (1, 1, 6, 5)
    with pytest.raises(SpikinessError, match="which has train"):
        images.load(f"folder:{tmp_path / 'y'}", "test")


@pytest.mark.parametrize("make", [make_folder, make_zip])
def test_a_flat_folder_is_one_class(tmp_path, make):
    name = make(tmp_path / "flat", {f"{i:03}.png": encoded(picture(i)) for i in range(3)} | {"notes.txt": b"hi"})
    loaded = images.load(name)
    assert loaded.y.tolist() == [0, 0, 0]
    expected = np.stack([picture(i) for i in range(3)]).transpose(0, 3, 1, 2) / 127.5 - 1
    np.testing.assert_allclose(loaded.x.numpy(), expected, atol=1e-6)
    with pytest.raises(SpikinessError, match=r"split 'test' is not in .*, which has train"):
        images.load(name, "test")


def test_jpeg_says_so(tmp_path):
    smooth = np.tile(np.linspace(0, 255, 16).astype(np.uint8)[:, None, None], (1, 16, 3))
    loaded = images.load(make_folder(tmp_path / "x", {"a/1.JPG": encoded(smooth, "JPEG")}))
    assert loaded.note == "recompressed as JPEG"
    np.testing.assert_allclose(loaded.x[0].numpy(), smooth.transpose(2, 0, 1) / 127.5 - 1, atol=0.1)


def high_depth() -> bytes:
    return encoded(np.arange(30, dtype=np.uint16).reshape(6, 5) * 2000)


@pytest.mark.parametrize("make", [make_folder, make_zip])
@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "holds no images"),
        ({"notes/x.txt": b"hi"}, "holds no images"),
        ({"a.png": encoded(picture(0)), "b/c.png": encoded(picture(1))}, "'a.png'; images lie in CLASS/NAME.png"),
        ({"a/b/c/d.png": encoded(picture(0))}, "images lie in CLASS/NAME.png"),
        ({"train/a.png": encoded(picture(0))}, "images lie in CLASS/NAME.png"),
        ({"a/1.png": encoded(picture(0)), "a/2.png": encoded(picture(0, (7, 5, 3)))}, "is 5 x 6, 'a/2.png' 5 x 7"),
        ({"a/1.png": encoded(picture(0))[:-30]}, "'a/1.png' cannot be read"),
        ({"a/1.png": b"<html>not here</html>"}, "'a/1.png' cannot be read"),
        ({"a/1.png": encoded(picture(0), "JPEG")}, "'a/1.png' cannot be read"),
        ({"a/1.png": encoded(picture(0, (6, 5, 4)))}, "its mode is RGBA"),
        ({"a/1.png": high_depth()}, "its mode is I;16"),
        ({"a/1.webp": b"x"}, "convert it to PNG"),
    ],
)
def test_bad_folders(tmp_path, make, files, words):
    with pytest.raises(SpikinessError) as error:
        images.load(make(tmp_path / "x", files))
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["../a/1.png", "/a/1.png", "a/../../1.png", "a\\..\\1.png", "C:/1.png"])
def test_zip_names_that_lead_out_are_refused(tmp_path, name):
    before = sorted(tmp_path.parent.iterdir())
    with pytest.raises(CorruptArtifact, match="leads out of the archive"):
        images.load(make_zip(tmp_path / "x.zip", {"a/0.png": encoded(picture(0)), name: encoded(picture(0))}))
    assert sorted(tmp_path.parent.iterdir()) == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.zip"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_zip_links_and_devices_are_refused(tmp_path, kind):
    info = zipfile.ZipInfo("a/1.png")
    info.external_attr = (kind | 0o644) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(CorruptArtifact, match="link or device"):
        images.load(f"folder:{tmp_path / 'x.zip'}")


def test_other_zip_tricks(tmp_path, monkeypatch):
    png = encoded(picture(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
            archive.writestr("a/1.png", png)
            archive.writestr("a/1.png", encoded(picture(1)))
    with pytest.raises(CorruptArtifact, match="twice"):
        images.load(f"folder:{tmp_path / 'twice.zip'}")
    secret = bytearray(Path(make_zip(tmp_path / "secret.zip", {"a/1.png": png})[7:]).read_bytes())
    secret[secret.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(secret)
    with pytest.raises(SpikinessError, match="is encrypted"):
        images.load(f"folder:{tmp_path / 'secret.zip'}")
    name = make_zip(tmp_path / "cut.zip", {"a/1.png": png})
    (tmp_path / "cut.zip").write_bytes((tmp_path / "cut.zip").read_bytes()[:-30])
    with pytest.raises(CorruptArtifact, match="neither a folder nor a whole zip"):
        images.load(name)


def test_disk_links_and_devices_are_refused(tmp_path):
    name = make_folder(tmp_path / "x", {"a/1.png": encoded(picture(0))})
    images.load(name)
    (tmp_path / "x/a/2.png").symlink_to(tmp_path / "x/a/1.png")
    with pytest.raises(SpikinessError, match=r"2\.png is a link or device"):
        images.load(name)
    (tmp_path / "x/a/2.png").unlink()
    os.mkfifo(tmp_path / "x/a/3.png")
    with pytest.raises(SpikinessError, match=r"3\.png is a link or device"):
        images.load(name)
    (tmp_path / "x/a/3.png").unlink()
    (tmp_path / "x/up").symlink_to(tmp_path)
    with pytest.raises(SpikinessError, match="up is a link or device"):
        images.load(name)


@pytest.mark.parametrize(
    ("cap", "words"),
    [("MAX_FILE_BYTES", "at most 20 are read"), ("MAX_BYTES", "at most 20 are read"), ("MAX_PIXELS", "6 pixels")],
)
def test_size_caps(tmp_path, monkeypatch, cap, words):
    name = make_zip(tmp_path / "x.zip", {"a/1.png": encoded(picture(0))})
    monkeypatch.setattr(folders, cap, 20)
    with pytest.raises(SpikinessError, match=words):
        images.load(name)


def test_a_pixel_bomb_is_refused_before_it_is_decoded(tmp_path):
    bomb = bytearray(encoded(picture(0)))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height in the PNG header: 3.6 gigapixels
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    with pytest.raises(CorruptArtifact, match="cannot be read"):
        images.load(make_zip(tmp_path / "x.zip", {"a/1.png": bytes(bomb)}))


# ---------------------------------------------------------------- fingerprints


def test_fingerprints_of_known_data_never_change():
    """Ids of runs hold them: published results would be lost."""
    assert {name: images.fingerprint(name)[:16] for name in ("mnist", "fashion-mnist", "cifar10")} == {
        "mnist": "7737a93187418d19",
        "fashion-mnist": "b1f81a32f5db8026",
        "cifar10": "fe9da5ffa96c0539",
    }


def test_fingerprints_need_no_torch():
    code = "import sys; from spikiness import images; images.fingerprint('mnist'); print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"


def test_fingerprints_follow_the_data(tmp_path):
    names = ["digits", "mnist", "fashion-mnist", "cifar10"]
    assert len({images.fingerprint(name) for name in names}) == 4
    npz = save_npz(tmp_path / "a.npz")
    zipped = make_zip(tmp_path / "b.zip", splits())
    folder = make_folder(tmp_path / "c", splits())
    before = [images.fingerprint(name) for name in (npz, zipped, folder)]
    assert before == [images.fingerprint(name) for name in (npz, zipped, folder)]
    assert all(len(f) == 64 for f in before)
    save_npz(tmp_path / "a.npz", train_labels=np.ones(6, np.int64))
    make_zip(tmp_path / "b.zip", splits() | {"test/emu/a.png": encoded(picture(9))})
    (tmp_path / "c/test/emu/a.png").rename(tmp_path / "c/test/emu/b.png")
    after = [images.fingerprint(name) for name in (npz, zipped, folder)]
    assert all(a != b for a, b in zip(before, after, strict=True))
    with pytest.raises(SpikinessError, match="is unknown"):
        images.fingerprint("mnits")
    with pytest.raises(SpikinessError, match="no file or folder"):
        images.fingerprint("npz:/no/such")


# ---------------------------------------------------------------- validation

good = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


@pytest.mark.parametrize(
    "x",
    [
        good,
        good.double(),
        good[:1],
        good * 1.4,  # samples overshoot
        good.permute(0, 1, 3, 2),  # not contiguous
        torch.zeros(4, 1, 5, 5),
        torch.full((1, 3, 4, 4), -1.0),
        good[:, :, :, :3],
    ],
)
def test_validation_lets_images_in_unchanged(x):
    assert images.check(x) is x


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ((good * 127.5 + 127.5).byte(), "x.float() / 127.5 - 1"),
        (good * 127.5 + 127.5, "x / 127.5 - 1"),
        ((good + 1) / 2, "2 * x - 1"),
        (good.long(), "torch.int64"),
        (good > 0, "torch.bool"),
        (good.half(), "torch.float16"),
        (good.to(torch.complex64), "torch.complex64"),
        (good.numpy(), "torch.from_numpy"),
        ([[0.0]], "is a list"),
        ([good[0], good[1]], "is a list; images are float tensors [N, C, H, W]: torch.stack(x)"),
        ([Image.new("L", (8, 8))], "pil_to_tensor(i) for i in x]) / 127.5 - 1"),
        (images.Images(good, torch.zeros(2), "x"), "is a Images; images are float tensors [N, C, H, W]: give its .x"),
        (good[0], "x[None]"),
        (good.flatten(1), "x.reshape(N, C, H, W)"),
        (good[None], "images are [N, C, H, W]"),
        (good.permute(0, 2, 3, 1), "x.permute(0, 3, 1, 2)"),
        (good[:0], "holds no images"),
        (good[:, :, :0], "holds no images"),
        (good.where(good != good[1, 0, 0, 0], torch.nan), "1 of 2 images hold NaN or infinity, the first at 1"),
        (good / 0, "NaN or infinity"),
        (good * 3, "x.clamp(-1, 1)"),
        (good * 127.5, "x spans -127.5 to 127.5"),
    ],
)
def test_validation_names_the_remedy(x, words):
    with pytest.raises(SpikinessError) as error:
        images.check(x)
    assert words in str(error.value)


def test_validation_knows_what_a_model_wants():
    assert images.check(good, channels=3, size=8) is good
    assert images.check(good, size=(8, 8)) is good
    with pytest.raises(SpikinessError, match=r"3 channel\(s\); 1 wanted: images.grayscale"):
        images.check(good, channels=1)
    with pytest.raises(SpikinessError, match=r"1 channel.*x\.expand"):
        images.check(good[:, :1], channels=3)
    with pytest.raises(SpikinessError, match=r"28 x 28; 32 x 32 wanted: images.resize\(x, 32\)"):
        images.check(torch.zeros(2, 1, 28, 28), size=32)
    with pytest.raises(SpikinessError, match="permute"):
        images.check(good.permute(0, 2, 3, 1), channels=3)
    bright = (good + 1) / 2
    assert images.check(bright, allow_unit=True) is bright
    with pytest.raises(SpikinessError, match="x spans"):
        images.check(good * 1.2, tolerance=0.1)


# ---------------------------------------------------------------- grayscale and size


def test_grayscale_is_pillows_luma():
    x = picture(3, (16, 16, 3))
    truth = np.asarray(Image.fromarray(x).convert("L")) / 127.5 - 1
    ours = images.grayscale(torch.from_numpy(x / 127.5 - 1).permute(2, 0, 1)[None])
    assert ours.shape == (1, 1, 16, 16)
    assert ours.dtype == torch.float64
    np.testing.assert_allclose(ours[0, 0].numpy(), truth, atol=1.01 / 127.5)  # Pillow rounds to whole levels
    assert images.grayscale(ours) is ours
    with pytest.raises(SpikinessError, match="needs"):
        images.grayscale(torch.zeros(2, 4, 8, 8))


@pytest.mark.parametrize("size", [4, 7, 14, 40])
def test_resize_is_pillows_bilinear(size):
    x = picture(5, (28, 28)).astype(np.float32) / 127.5 - 1
    truth = np.asarray(Image.fromarray(x).resize((size, size), Image.Resampling.BILINEAR))
    ours = images.resize(torch.from_numpy(x)[None, None], size)[0, 0].numpy()
    np.testing.assert_allclose(ours, truth, atol=2e-5)


def test_load_options_combine(tmp_path):
    name = save_npz(tmp_path / "a.npz")
    loaded = images.load(name, n=4, gray=True, size=4)
    assert loaded.x.shape == (4, 1, 4, 4)
    plain = images.load(name, n=4)
    torch.testing.assert_close(loaded.x, images.resize(images.grayscale(plain.x), 4))
    assert loaded.x.min() >= -1
    assert loaded.x.max() <= 1


# ---------------------------------------------------------------- copies, halves, center


def test_duplicates_are_counted_exactly():
    x = images.load("digits", n=20).x
    index = torch.tensor([3, 11])
    many = images.duplicate(x, index, 5)
    origin = images.duplicate(torch.arange(20), index, 5)
    assert len(many) == 28
    assert torch.equal(many, x[origin])
    assert origin.bincount().tolist() == [5 if i in (3, 11) else 1 for i in range(20)]
    assert len(images.distinct(many)) == len(images.distinct(x)) == 20
    assert torch.equal(many[images.distinct(many)], x)
    mask = torch.zeros(20, dtype=torch.bool).index_fill(0, index, True)
    assert torch.equal(images.duplicate(x, mask, 5), many)
    assert torch.equal(images.duplicate(x, index, 1), x)
    assert torch.equal(images.duplicate(x, [], 3), x)


def test_distinct_takes_the_first_and_knows_negative_zero():
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, -0.0], [2.0, 1e-30]])
    assert images.distinct(x).tolist() == [0, 1, 3]
    assert images.distinct(x.double()).tolist() == [0, 1, 3]
    assert images.distinct(x[:0]).tolist() == []


def test_halves_of_distinct_images_share_none():
    planted = images.duplicate(images.load("digits", n=30).x, torch.arange(10), 4)
    clean = planted[images.distinct(planted)]
    first, second = images.halves(clean, seed=1)
    assert (len(first), len(second)) == (15, 15)
    assert torch.cdist(first.flatten(1).double(), second.flatten(1).double()).min() > 0.1
    assert len(images.distinct(torch.cat([first, second]))) == 30


@pytest.mark.parametrize(
    ("index", "copies", "words"),
    [
        ([0, 20], 2, "index spans 0 to 20; x has 20 samples"),
        ([-1], 2, "index spans -1"),
        ([1, 1], 2, "twice"),
        ([0.5], 2, "whole numbers"),
        ([True, False], 2, "mask of shape"),
        ([1], 0, "copies = 0"),
        ([1], 2.0, "copies = 2.0"),
    ],
)
def test_bad_duplicates(index, copies, words):
    with pytest.raises(SpikinessError) as error:
        images.duplicate(torch.zeros(20, 3), torch.tensor(index), copies)
    assert words in str(error.value)


@given(n=st.integers(2, 60), seed=st.integers(0, 2**40))
def test_halves_part_everything(n, seed):
    first, second = images.halves(torch.arange(n), seed)
    assert len(first) == n // 2
    assert sorted(torch.cat([first, second]).tolist()) == list(range(n))
    again, _ = images.halves(torch.arange(n), seed)
    assert torch.equal(first, again)


def test_halves_need_two():
    with pytest.raises(SpikinessError, match="at least 2"):
        images.halves(torch.zeros(1, 3))


def test_center():
    x = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 4
    centered, mean = images.center(x)
    assert centered.dtype == torch.float64
    assert float(centered.mean(0).abs().max()) < 1e-12
    torch.testing.assert_close(centered + mean, x)
    other, same = images.center(x[:5], mean)
    assert torch.equal(other, centered[:5])
    assert same is mean
    with pytest.raises(SpikinessError, match=r"mean has shape \[3\]"):
        images.center(x, mean[0])
    with pytest.raises(SpikinessError, match="no samples"):
        images.center(x[:0])


# ---------------------------------------------------------------- mixtures


def test_old_names_work_and_say_what_they_are_called_now():
    with pytest.warns(DeprecationWarning, match=r"images\.centre is now images\.center"):
        assert images.centre is images.center
    with pytest.warns(DeprecationWarning, match=r"images\.greyscale is now images\.grayscale"):
        assert images.greyscale is images.grayscale
    with pytest.warns(DeprecationWarning, match="grey= is now gray="):
        assert torch.equal(images.load("digits", n=3, grey=True).x, images.load("digits", n=3, gray=True).x)
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = images.colour


def test_mixture_has_the_moments_asked_for():
    rng = torch.Generator().manual_seed(0)
    means = torch.randn(3, 6, generator=rng, dtype=torch.float64) * 3
    factors = [torch.randn(6, r, generator=rng, dtype=torch.float64) for r in (1, 2, 4)]
    weights = [0.5, 0.3, 0.2]
    x, labels = images.mixture(means, factors, weights, 60_000, seed=1)
    assert x.dtype == torch.float64
    assert labels.dtype == torch.int64
    for k in range(3):
        mine = x[labels == k]
        share = len(mine) / 60_000
        assert share == pytest.approx(weights[k], abs=4 * (weights[k] * (1 - weights[k]) / 60_000) ** 0.5)
        sigma = factors[k] @ factors[k].T
        error = (mine.mean(0) - means[k]).abs() / (sigma.diagonal() / len(mine)).sqrt().clamp(min=1e-12)
        assert float(error.max()) < 4.5  # standard errors
        # standard error of a covariance entry: sqrt((s_ii s_jj + s_ij^2) / n)
        spread = ((sigma.diagonal()[:, None] * sigma.diagonal() + sigma**2) / len(mine)).sqrt()
        assert float(((mine.T.cov() - sigma).abs() / spread).max()) < 4.5
        away = mine - means[k]
        assert int(torch.linalg.matrix_rank(away.T @ away, rtol=1e-9)) == factors[k].shape[1]


def test_mixture_is_seeded_nested_and_keeps_its_dtype():
    means, factors = images.simplex_means(3, 5), images.random_factors(3, 5, 2, 0.3)
    x, labels = images.mixture(means, factors, torch.full((3,), 1 / 3), 40, seed=2)
    more, more_labels = images.mixture(means, factors, [1 / 3] * 3, 400, seed=2)
    assert torch.equal(more[:40], x)
    assert torch.equal(more_labels[:40], labels)
    other, _ = images.mixture(means, factors, [1 / 3] * 3, 40, seed=3)
    assert not torch.equal(other, x)
    single, single_labels = images.mixture(means.float(), factors, [1 / 3] * 3, 40, seed=2)
    assert single.dtype == torch.float32
    assert torch.equal(single_labels, labels)
    torch.testing.assert_close(single.double(), x, atol=1e-5, rtol=0)
    _, never_labels = images.mixture(means, factors, [0.0, 1.0, 0.0], 50)
    assert never_labels.unique().tolist() == [1]
    point, _ = images.mixture(means, [torch.zeros(5, 0)] * 3, [1.0, 0.0, 0.0], 4)
    assert torch.equal(point, means[:1].expand(4, 5))


eye = torch.eye(2, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"means": eye[0]}, "means must be a float tensor"),
        ({"means": eye.long()}, "means must be a float tensor"),
        ({"means": eye * torch.nan}, "must be finite"),
        ({"factors": [torch.ones(3, 1)]}, "2 means, 1 factors"),
        ({"factors": [torch.ones(3, 1), torch.ones(2, 1)]}, "factors[1] has shape [2, 1]"),
        ({"weights": [0.5, 0.4]}, "sum to 1"),
        ({"weights": [1.5, -0.5]}, "at least 0"),
        ({"weights": [1.0]}, "give K of each"),
        ({"weights": [float("nan"), 1.0]}, "must be finite"),
        ({"n": 0}, "n = 0"),
        ({"seed": -2}, "seed = -2"),
    ],
)
def test_bad_mixtures(change, words):
    arguments = {"means": eye, "factors": [torch.ones(3, 1)] * 2, "weights": [0.5, 0.5], "n": 3, "seed": 0}
    with pytest.raises(SpikinessError) as error:
        images.mixture(**(arguments | change))
    assert words in str(error.value)


@pytest.mark.parametrize(("k", "d"), [(2, 1), (2, 5), (5, 4), (11, 40)])
def test_simplex_means_share_the_most_negative_cosine(k, d):
    means = images.simplex_means(k, d, norm=3.0, seed=7)
    gram = means @ means.T / 9
    truth = torch.full((k, k), -1 / (k - 1), dtype=torch.float64).fill_diagonal_(1)
    torch.testing.assert_close(gram, truth, atol=1e-12, rtol=0)
    if d > 1:
        assert not torch.allclose(means, images.simplex_means(k, d, norm=3.0, seed=8))


def test_simplex_limits():
    assert float(images.simplex_means(1, 4, norm=2.0).norm()) == pytest.approx(2)
    with pytest.raises(SpikinessError, match="need d >= 4; d = 3"):
        images.simplex_means(5, 3)
    with pytest.raises(SpikinessError, match="norm = -1"):
        images.simplex_means(3, 3, norm=-1)


def test_random_factors_have_the_spectrum_documented():
    means = images.simplex_means(4, 20, norm=2.0)  # spans 3 directions, not 4
    factors = images.random_factors(4, 20, 17, scale=0.5, seed=3, means=means)
    assert factors.shape == (4, 20, 17)
    spectrum = torch.linalg.eigvalsh(factors @ factors.mT).flip(-1)[:, :17]
    torch.testing.assert_close(spectrum, (0.25 / torch.arange(1, 18).double()).expand(4, 17), atol=1e-12, rtol=0)
    assert float((means @ factors).abs().max()) < 1e-12
    assert float((factors[0].mT @ factors[1]).abs().max()) > 0.01  # each cluster has its own directions
    level = images.random_factors(2, 6, 3, scale=2.0, decay=0)
    torch.testing.assert_close(level.mT @ level, (4 * torch.eye(3).double()).expand(2, 3, 3), atol=1e-12, rtol=0)
    with pytest.raises(SpikinessError, match="rank = 18 columns do not fit in d = 20 orthogonal to 3 directions"):
        images.random_factors(4, 20, 18, 0.5, means=means)
    with pytest.raises(SpikinessError, match="rank = 7 columns do not fit in d = 6;"):
        images.random_factors(1, 6, 7, 0.5)
    with pytest.raises(SpikinessError, match="scale = nan"):
        images.random_factors(1, 6, 2, float("nan"))
