"""The flag --device: what can be used is used, and what cannot is told apart in one line."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from vqrf.cli import device as device_flag
from vqrf.cli.device import with_device
from vqrf.cli.ends import EXIT_BAD_INPUT, explain
from vqrf.cli.main import main
from vqrf.cli.terminal import Common, UsageError
from vqrf.data.builtin import built_in_scene
from vqrf.data.rays import Batch
from vqrf.data.scene import save_scene
from vqrf.training import loop
from vqrf.training.stages import PRESETS

# What PyTorch says, in its words.
NO_DRIVER = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver from "
    "http://www.nvidia.com/Download/index.aspx"
)
OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading and "
    "installing a new version."
)
INSUFFICIENT = "CUDA error: CUDA driver version is insufficient for CUDA runtime version"
NO_MEMORY = "CUDA error: out of memory"


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (NO_DRIVER, "there is no NVIDIA driver; install one, or give --device cpu"),
        (OLD_DRIVER, "the NVIDIA driver is too old for this PyTorch; update the driver, or give --device cpu"),
        (INSUFFICIENT, "the NVIDIA driver is too old for this PyTorch; update the driver, or give --device cpu"),
        (NO_MEMORY, "the card has no memory left; end what uses it, or give --device cpu"),
        ("CUDA error: invalid device ordinal", "cannot be used here; there is cpu"),
    ],
)
def test_a_card_that_cannot_be_used_is_one_line(says: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*size: int, device: str) -> None:
        raise RuntimeError(says)

    monkeypatch.setattr(torch, "empty", fail)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError) as raised:
        with_device(Common(device="cuda:1"))
    assert explain(raised.value) == (EXIT_BAD_INPUT, f"--device cuda:1: {reason}")


@pytest.mark.parametrize(
    ("has_card", "device", "name"), [(True, "cuda", "a card"), (False, "cpu", "the CPU, as no card can be used here: ")]
)
def test_auto_is_the_card_if_there_is_one(
    has_card: bool, device: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_card)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(device_flag, "find_spec", lambda name: name)
    assert with_device(Common(seed=3)) == Common(device=device, seed=3)
    said = capsys.readouterr().err
    assert said.startswith(f"vqrf: learning on {name}") and said.count("\n") == 1
    with_device(Common(device="auto", quiet=True))
    assert not capsys.readouterr().err


def test_auto_is_the_cpu_where_the_card_has_no_kernels(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(device_flag, "find_spec", lambda name: None)
    assert with_device(Common()).device == "cpu"
    assert 'install "vqrf[cuda]"' in capsys.readouterr().err


def test_auto_says_nothing_where_nobody_has_a_card(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert with_device(Common()).device == "cpu"
    assert not capsys.readouterr().err
    monkeypatch.setattr(shutil, "which", lambda name: name)
    with_device(Common())
    assert "no card can be used here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("says", "reason"), [(NO_DRIVER, "there is no NVIDIA driver"), (OLD_DRIVER, "the NVIDIA driver is too old")]
)
def test_auto_says_why_it_is_not_the_card(
    says: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*size: int, device: str) -> None:
        raise RuntimeError(says)

    monkeypatch.setattr(torch, "empty", fail)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert with_device(Common(device="auto")).device == "cpu"
    assert f"the CPU, as no card can be used here: {reason}" in capsys.readouterr().err


@pytest.mark.parametrize("says", [NO_DRIVER, OLD_DRIVER, INSUFFICIENT, NO_MEMORY])
@pytest.mark.parametrize("verb", ["train", "compress"])
def test_a_verb_ends_in_one_line_where_the_card_cannot_be_used(
    says: str, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*size: int, device: str) -> None:
        raise RuntimeError(says)

    monkeypatch.setattr(torch, "empty", fail)
    with pytest.raises(SystemExit) as ended:
        main([verb, str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--device", "cuda"])
    said = capsys.readouterr()
    assert ended.value.code == EXIT_BAD_INPUT and not said.out and not list(tmp_path.iterdir())
    assert said.err.count("\n") == 1 and said.err.startswith("vqrf: --device cuda: ") and "or give --device cpu" in said.err


def test_a_training_that_does_not_fit_on_the_card_ends_in_one_line_and_is_not_made_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rays: list[int] = []

    def differentiate(kernels: object, model: object, batch: Batch, *rest: object) -> None:
        rays.append(len(batch.origins))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total ...")

    save_scene(built_in_scene(n_train=3, n_test=1, side=16), tmp_path / "data")
    monkeypatch.setattr(loop, "_differentiate", differentiate)
    with pytest.raises(SystemExit) as ended:
        main(["train", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--preset", "demo", "--quiet"])
    said = capsys.readouterr()
    assert ended.value.code == EXIT_BAD_INPUT and rays == [PRESETS["demo"].coarse.rays_per_step]
    assert said.err == "vqrf: the card has not enough memory; a smaller preset takes less, and --device cpu the machine's\n"


def test_a_card_that_runs_out_of_memory_is_told_apart() -> None:
    code, reason = explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total ..."))
    assert (code, reason) == (
        EXIT_BAD_INPUT,
        "the card has not enough memory; a smaller preset takes less, and --device cpu the machine's",
    )


def test_sums_in_a_fixed_order_are_pytorchs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # what was there stays
    assert not torch.are_deterministic_algorithms_enabled()
    try:
        with_device(Common(device="cpu", deterministic=True))
        assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_sum_that_has_no_order_is_one_line() -> None:
    said = RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set 'torch.use_...'")
    code, reason = explain(said)
    assert code == EXIT_BAD_INPUT and reason.startswith("--deterministic: ") and "warp-lang" in reason


def test_sums_in_a_fixed_order_are_for_one_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["batch", "scenes.txt", "--out", "out", "--deterministic"])
    assert "--deterministic: is for one field at a time" in capsys.readouterr().err
