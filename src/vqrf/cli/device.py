"""Where a verb learns: the flag --device as a device that is there, or one line on why it is not and what to do."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from importlib.util import find_spec

from vqrf.cli.terminal import Common, UsageError, tell
from vqrf.kernels import has_native
from vqrf.training.workers import device_of_own, is_first, is_launched, n_workers_here

AUTO = "auto"


def expect_workers(*, is_training: bool, threads: int) -> None:
    """Refuse what one process is to do where torchrun started several; let these share the machine's threads.

    Args:
      threads: of each that were asked for; 0: none were.
    """
    if not is_launched():
        return
    if not is_training:
        raise UsageError("torchrun: of all verbs train alone learns in several processes")
    if has_native() and not threads:
        from vqrf.kernels.native import set_threads

        set_threads(max((os.cpu_count() or 1) // n_workers_here(), 1))


def with_device(common: Common) -> Common:
    """The flags with a device that can be used. "auto" is the card if there is one and its kernels are installed.

    A line says which it is, or why not the card; nothing is said where nobody has one.

    Of several workers each has a card of its own, and the first alone speaks.

    Raises:
      UsageError: it cannot be used here.
    """
    import torch

    common = replace(common, quiet=common.quiet or not is_first())
    if common.deterministic:
        order_sums()
    if common.device == AUTO:
        lack = _lack_of_card()
        there = f"the CPU, as {lack}" if lack else torch.cuda.get_device_name()
        tell(common.quiet or (bool(lack) and not _may_have_card()), f"learning on {there}")
        return replace(common, device=device_of_own("cpu" if lack else "cuda"))
    common = replace(common, device=device_of_own(common.device))
    if lack := _lack_of(common.device):
        raise UsageError(f"--device {common.device}: {lack}")
    return common


def _lack_of_card() -> str:
    """Why "auto" is not the card; "" if it is."""
    import torch

    if not torch.cuda.is_available():
        return f"no card can be used here: {_lack_of('cuda').partition(';')[0]}"
    if find_spec("warp") is None:
        return 'the card is slower without its kernels: install "vqrf[cuda]"'
    return ""


def _may_have_card() -> bool:
    """Whether somebody may wonder why the card is not used: there is NVIDIA's program, or a PyTorch for its cards."""
    import torch

    return torch.version.cuda is not None or shutil.which("nvidia-smi") is not None


def _lack_of(device: str) -> str:
    """Why nothing can be put on a device, and what to do; "" if it can."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # a strange name, a lack of CUDA, another machine's
        return reason_of(device, str(error))
    return ""


def order_sums() -> None:
    """Let PyTorch and Warp add in a fixed order from now on, in this process; what cannot is an error then."""
    import torch
    import torch.utils.deterministic as filling

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS has no fixed order
    torch.use_deterministic_algorithms(True)
    filling.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # what is not written to is not read


def reason_of(device: str, says: str) -> str:
    """Why a device cannot be used and what to do, from what PyTorch says of it.

    >>> reason_of("cuda", "Torch not compiled with CUDA enabled")
    'this PyTorch is one without CUDA; install one with it, or give --device cpu'
    """
    import torch

    says = says.lower()
    if device.startswith("cuda"):
        if "not compiled with cuda" in says:
            return "this PyTorch is one without CUDA; install one with it, or give --device cpu"
        if "too old" in says or "insufficient" in says:
            return "the NVIDIA driver is too old for this PyTorch; update the driver, or give --device cpu"
        if "no nvidia driver" in says:
            return "there is no NVIDIA driver; install one, or give --device cpu"
        if "out of memory" in says:
            return "the card has no memory left; end what uses it, or give --device cpu"
    here = ["cpu", *(name for name in ("cuda", "mps") if getattr(torch, name).is_available())]
    return f"cannot be used here; there is {' and '.join(here)}"
