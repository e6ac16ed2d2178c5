"""GPUs shared out among jobs: each has its own, and no job takes one that another holds."""

import os

import pytest

from spikiness.errors import RunFailed
from spikiness_book.engine.runs import devices
from spikiness_book.engine.sweeps import machine


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-ab")


@pytest.mark.parametrize(("visible", "found"), [("2,GPU-ab", ["2", "GPU-ab"]), ("", []), ("-1", []), ("0", ["0"])])
def test_the_environment_says_which_gpus_there_are(monkeypatch, visible, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.gpus() == found


def test_two_jobs_never_hold_the_same_gpu(monkeypatch):
    with machine.devices(1):
        first = os.environ["CUDA_VISIBLE_DEVICES"]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-ab")  # as another job starts
        with machine.devices(1):
            assert {first, os.environ["CUDA_VISIBLE_DEVICES"]} == {"2", "GPU-ab"}
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-ab")
            with pytest.raises(RunFailed, match="needs 1 GPUs, and of 2, GPU-ab only 0 are free"):
                machine.devices(1).__enter__()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-ab")
    with machine.devices(2):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,GPU-ab"


def test_slurms_own_choice_is_kept(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with machine.devices(1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,GPU-ab"
    assert not machine.records().parent.exists()
