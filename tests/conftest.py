import gc
import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

# What takes longest, the longest first: a file that nobody else could share would otherwise be the last to end.
LONG = (
    *("server_documents", "page", "tuning_train", "cli", "store_crash", "server_hostile", "chatglm_gpu", "sandbox"),
    *("tuning_promote", "evaluation", "operation", "chatglm", "readers_pdf", "airgap", "server", "chatglm_kernels"),
    *("openapi", "injection", "ingest", "server_mcp", "generators_openai", "generators_chatglm", "server_dify"),
)


def pytest_collection_modifyitems(items):
    rank = {f"test_{name}": at for at, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONG)))


def pytest_collection_finish():
    """What is there by now stays to the end. To look through it takes a second, and transformers wants that done
    whenever it has trained."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def same_numbers():
    """Random weights are the same in each run, whatever ran before."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def testdata() -> Path:
    """The folder with data sets and reference vectors; without it such tests skip and say so."""
    where = os.environ.get("KBQA_TESTDATA")
    if not where:
        pytest.skip("KBQA_TESTDATA is not set: the data sets are not at hand")
    return Path(where)


@pytest.fixture(autouse=True)
def network_is_shut(monkeypatch):
    """Every outbound connection but loopback fails the test that opens it."""
    connect = socket.socket.connect

    def guarded(self, address):
        host = address[0] if isinstance(address, tuple) else ""
        if self.family in (socket.AF_INET, socket.AF_INET6) and host not in ("127.0.0.1", "::1", "localhost"):
            pytest.fail(f"outbound connection to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def mounts():
    """`with mounts(folder, *arguments)`: what `mount` makes of them lies there."""
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting needs Linux and root")

    @contextmanager
    def mounted(where, *arguments):
        where.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *arguments, str(where)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("mounting is not permitted here")
        try:
            yield where
        finally:
            subprocess.run(["umount", "-l", str(where)], check=True)

    return mounted


@pytest.fixture
def no_file_grows():
    """`with no_file_grows(16384)`: files of this process end at so many bytes. Then SQLite cannot make its shared
    memory, as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextmanager
    def limited(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def chat_server():
    from chatserver import serving

    with serving() as server:
        yield server


PARROT = "试用期为三个月，试用期工资为转正工资的百分之八十五。试用期不得超过六个月！"


@pytest.fixture(scope="session")
def parrot(tmp_path_factory):
    """The folder of a model that says PARROT, whatever it is asked."""
    pytest.importorskip("transformers")
    from modelkit import make_parrot

    return make_parrot(tmp_path_factory.mktemp("models") / "parrot", PARROT)


@pytest.fixture(scope="session")
def babbler(tmp_path_factory):
    """The folder of a model that says random bytes and never ends."""
    pytest.importorskip("transformers")
    from modelkit import make_babbler

    return make_babbler(tmp_path_factory.mktemp("models") / "babbler")
