"""``headstart doctor``: what training has on this machine."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from headstart.errors import UserError

GIB = 2**30
LEAST_DISK, LEAST_MEMORY = 1 * GIB, 1 * GIB  # of small runs; what a recipe needs is in headstart train --show
FAST = 0.8  # bf16 is fast where it takes less than this share of the time of fp32
SIZE = 64  # of the images, and the channels, on which the device is tried
EXTRAS = {
    "data": ("datasets", "sklearn"),
    "evaluate": ("pyautoattack", "scipy"),
    "report": ("captum", "jinja2", "markdown_it", "matplotlib", "scipy"),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "hub": ("huggingface_hub", "jinja2"),
    "logging": ("tensorboard",),
    "completion": ("shtab",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "vision": ("torchvision", "timm"),
}
"""Modules that the extras of the installation bring."""


class Bad(Exception):
    """Something without which training cannot run; what it is and the remedy."""


def add_arguments(sub: ArgumentParser) -> None:
    """None."""


def run(options: Namespace) -> int:
    """Run it: 0 if training can run here, 1 otherwise."""
    rows = [(name, *answer(check)) for name, check in CHECKS.items()]
    width = max(len(name) for name, _, _ in rows) + 2
    for name, fine, text in rows:
        print(f"{'ok ' if fine else 'BAD'}  {name:<{width}}{text}")
    wrong = [name for name, fine, _ in rows if not fine]
    print(f"training cannot run here: {', '.join(wrong)}" if wrong else "training can run here")
    return 1 if wrong else 0


def answer(check: Callable[[], str]) -> tuple[bool, str]:
    """Whether a check passes, and what it says; one that fails in a way nobody foresaw has not passed."""
    try:
        return True, check()
    except (Bad, UserError) as error:
        return False, str(error)
    except Exception as error:
        return False, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def versions() -> str:
    """Of what results depend on."""
    from headstart import __version__
    from headstart.runs.environment import package_version

    packages = ", ".join(f"{name} {package_version(name)}" for name in ("torch", "lightning-fabric", "numpy"))
    return f"headstart {__version__}, Python {platform.python_version()}, {packages}"


def device() -> str:
    """What ``device auto`` takes, once a small network was trained on it."""
    import torch

    seconds = _step(torch.float32)
    if not torch.cuda.is_available():
        return f"cpu, {torch.get_num_threads()} threads; a convolution forth and back takes {1000 * seconds:.1f} ms"
    names = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return f"{'; '.join(names)}; a convolution forth and back takes {1000 * seconds:.2f} ms"


def bf16() -> str:
    """Whether ``precision bf16`` is of use."""
    import torch

    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "not in this GPU; leave precision at fp32"
    share = _step(torch.bfloat16) / _step(torch.float32)
    if share < FAST:
        return f"fast: {share:.2f} of the time of fp32"
    return f"works, at {share:.2f} of the time of fp32: little is gained by precision bf16"


def compiler() -> str:
    """Whether ``compile true`` works; training does without."""
    import torch

    net = torch.nn.Linear(4, 4).to(_device())
    try:
        torch.compile(net)(torch.rand(2, 4, device=_device())).sum().backward()
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        return f"does not work here ({type(error).__name__}: {reason}); leave compile at false"
    return "works"


def disk() -> str:
    """Room for runs here, and for decoded images in the cache."""
    from headstart.data import cache

    places = {"here": Path.cwd(), "cache": cache.folder()}
    said = []
    for name, place in places.items():
        there = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
        free = shutil.disk_usage(there).free
        said.append(f"{name} {free / GIB:.0f} GiB free")
        if name == "here" and (free < LEAST_DISK or not os.access(there, os.W_OK)):
            raise Bad(f"{place} has {free / GIB:.2f} GiB free, or is read-only; go to another folder")
    return ", ".join(said)


def memory() -> str:
    """That programs may still take."""
    from headstart.data.decode import available_memory

    free = available_memory()
    if free < LEAST_MEMORY:
        raise Bad(f"{free / GIB:.2f} GiB free; end something else, or take a smaller batch_size")
    return f"{free / GIB:.0f} GiB free" if free < float("inf") else "the system does not say"


def data_sets() -> str:
    """Those that need no network: in $HEADSTART_DATA, or in what the hub's libraries keep."""
    from headstart.data.sources import HUB

    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    kept = Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets"))
    local = os.environ.get("HEADSTART_DATA")
    found = ["digits"] if importlib.util.find_spec("sklearn") else []
    for name, hub in HUB.items():
        if local and (Path(local) / name).is_dir():
            found.append(f"{name} ($HEADSTART_DATA)")
        elif (kept / hub.replace("/", "___")).is_dir():
            found.append(f"{name} (hub cache)")
    where = f"$HEADSTART_DATA is {local}" if local else "$HEADSTART_DATA is not set"
    return f"{', '.join(found) or 'none by name'}; {where}"


def extras() -> str:
    """Which of the optional packages are there."""
    there = {name: all(map(importlib.util.find_spec, modules)) for name, modules in EXTRAS.items()}
    missing = [name for name, found in there.items() if not found]
    said = ", ".join(name for name, found in there.items() if found) or "none"
    return f"{said}; not: {', '.join(missing)}" if missing else said


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _step(dtype: object) -> float:
    """Seconds of a convolution forth and back in this type, the least of five."""
    import torch

    net = torch.nn.Conv2d(SIZE, SIZE, 3, padding=1).to(_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.rand(16, SIZE, SIZE // 2, SIZE // 2, device=_device()).contiguous(memory_format=torch.channels_last)
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        with torch.autocast(_device(), dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = net(x).float().square().mean()
        loss.backward()
        loss.item()
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:])


CHECKS = {
    "versions": versions,
    "device": device,
    "bf16": bf16,
    "compile": compiler,
    "disk": disk,
    "memory": memory,
    "data sets": data_sets,
    "extras": extras,
}
