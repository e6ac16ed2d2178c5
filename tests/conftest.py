"""What every test shares: quiet threads, a home for what is made, and the folder of real images where there is one."""

import os
from pathlib import Path

# Before torch is imported, and inherited by the kernels that tests start: small tensors are fastest on one thread,
# the bits of a result then do not depend on the machine's core count, and a waiting thread must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory):
    """Runs and trained networks of the tests go to a folder of this session, never to the reader's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIKINESS_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of real data sets, read only: MNIST/raw/*.gz and cifar10-jpeg.zip."""
    folder = os.environ.get("SPIKINESS_DATA")
    if not folder:
        pytest.skip("SPIKINESS_DATA is not set: no folder of real images to test with")
    if not Path(folder).is_dir():
        pytest.skip(f"SPIKINESS_DATA={folder} is not a folder: no real images to test with")
    return Path(folder)
