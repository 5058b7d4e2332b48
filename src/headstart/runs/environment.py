"""What a record says of the machine and the software it was made with."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from headstart import __version__


def environment(device: torch.device | str = "cpu") -> dict[str, str]:
    """Device, versions and the commit of the code, as plain strings for a JSON record."""
    device = torch.device(device)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_processor()}, {torch.get_num_threads()} threads"
    packages = {
        "torch": torch.__version__,
        "headstart": __version__,
        "pyautoattack": package_version("pyautoattack"),
    }
    return {"device": name, "python": platform.python_version(), "commit": _commit(), **packages}


def not_deterministic(device: torch.device, deterministic: bool) -> list[str]:
    """What of a run on this device may differ when it is repeated with the same seed, machine and settings."""
    if device.type == "cpu" or deterministic:
        return []
    return [
        "cuDNN chooses convolution algorithms by timing them (torch.backends.cudnn.benchmark)",
        "CUDA kernels that add atomically, such as the backward of indexing and of pooling, round in any order",
    ]


def package_version(package: str) -> str:
    """The version that is installed, or that none is."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit of a source checkout, marked when the work tree differs from it; 'unknown' outside one."""
    here = Path(__file__).parents[1]
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True)
        changed = subprocess.run(["git", "status", "--porcelain", "--", "."], cwd=here, capture_output=True, text=True)
    except FileNotFoundError:  # no git on this machine
        return "unknown"
    if head.returncode:
        return "unknown"
    return head.stdout.strip() + (" with changes" if changed.stdout.strip() else "")
