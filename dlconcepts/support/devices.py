"""Find a device by its PyTorch name, or explain why it cannot be used."""

import platform
import warnings
from collections.abc import Callable, Sequence

import torch

from dlconcepts.support.errors import UserError

DEVICES = ("cpu", "cuda", "mps", "xpu")
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS reads it once, when CUDA starts


class DeviceUnavailableError(UserError):
    """A known device that this build of PyTorch or this machine cannot use."""


def find_device(name: str) -> torch.device:
    """Return the device called `name` after a computation on it succeeded.

    Raises ValueError if the name is not one of `DEVICES`, and DeviceUnavailableError if the device
    cannot be used, whatever RuntimeError or AssertionError PyTorch raises; the message has the
    name, and says why and what to do.
    Source: PyTorch documentation, "torch.device" and "CUDA semantics".

    >>> find_device("cpu")
    device(type='cpu')
    >>> find_device("gpu")
    Traceback (most recent call last):
    ...
    ValueError: unknown device 'gpu': choose one of cpu, cuda, mps, xpu
    """
    if name not in DEVICES:
        raise ValueError(f"unknown device {name!r}: choose one of {', '.join(DEVICES)}")
    unavailable = f"device {name!r} is not available: "
    if not _is_built(name):
        raise DeviceUnavailableError(
            f"{unavailable}this build of PyTorch ({torch.__version__}) has no support for it; "
            "install a build that has, see https://pytorch.org/get-started/locally/"
        )
    try:
        # PyTorch warns about drivers that are too old before it raises; the error says it, too.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.ones(1, device=name).add(1).item()
    except (RuntimeError, AssertionError) as error:
        raise DeviceUnavailableError(f"{unavailable}{_explain(str(error))}") from error
    return torch.device(name)


def find_devices(names: Sequence[str]) -> list[torch.device]:
    """Return the devices called `names`, once each; "all" stands for those that can be used."""
    found = []
    for name in dict.fromkeys(DEVICES if "all" in names else names):
        try:
            found.append(find_device(name))
        except DeviceUnavailableError:
            if name in names:
                raise
    return found


def hardware(device: torch.device, otherwise: Callable[[], str] = platform.machine) -> str:
    """Return the name of the hardware behind a device, or what `otherwise` returns for the CPU."""
    module = getattr(torch, device.type, None)
    return str(getattr(module, "get_device_name", otherwise)())


def _is_built(name: str) -> bool:
    if name == "cuda":
        return torch.version.cuda is not None or torch.version.hip is not None
    if name == "mps":
        return torch.backends.mps.is_built()
    return name != "xpu" or getattr(torch.version, "xpu", None) is not None


def _explain(error: str) -> str:
    """Return the reason and the remedy for PyTorch's error."""
    if "no NVIDIA driver" in error:
        return (
            f"PyTorch is built for CUDA {torch.version.cuda}, but there is no NVIDIA driver; "
            "install the driver (nvidia-smi must then list the device)"
        )
    if "No CUDA GPUs" in error:
        return (
            "there is a driver but no device; check that nvidia-smi lists one and that "
            "CUDA_VISIBLE_DEVICES does not hide it"
        )
    first_line = (error.strip() or "no reason given").splitlines()[0]
    return f"PyTorch says {first_line!r}; check the device's driver, or use the device 'cpu'"
