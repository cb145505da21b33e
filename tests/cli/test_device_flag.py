"""The flag --device: what can be used is used, and what cannot is told apart in one line."""

from __future__ import annotations

import os

import pytest
import torch

from vqrf.cli.device import with_device
from vqrf.cli.ends import EXIT_BAD_INPUT, explain
from vqrf.cli.main import main
from vqrf.cli.terminal import Common, UsageError

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


@pytest.mark.parametrize(("has_card", "device", "name"), [(True, "cuda", "a card"), (False, "cpu", "the CPU: no card")])
def test_auto_is_the_card_if_there_is_one(
    has_card: bool, device: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_card)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    assert with_device(Common(device="auto", seed=3)) == Common(device=device, seed=3)
    said = capsys.readouterr().err
    assert said.startswith(f"vqrf: learning on {name}") and said.count("\n") == 1
    with_device(Common(device="auto", quiet=True))
    assert not capsys.readouterr().err


def test_a_card_that_runs_out_of_memory_is_told_apart() -> None:
    code, reason = explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total ..."))
    assert (code, reason) == (EXIT_BAD_INPUT, "the card has not enough memory; --device cpu takes the machine's")


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
