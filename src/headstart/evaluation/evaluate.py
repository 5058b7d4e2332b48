"""From a run, a weights file or a network's name to a measured robustness."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from headstart.core import distributed
from headstart.core.threat import ThreatModel
from headstart.data import Found, ImageSet, find, from_python, in_memory
from headstart.errors import UserError, unknown
from headstart.evaluation.measure import Evaluation, evaluate_model
from headstart.evaluation.warnings import warnings_of_overlap
from headstart.fields import pixel_fraction
from headstart.models import check_network
from headstart.runs.classifier import Classifier, load_classifier
from headstart.runs.files import check_writable
from headstart.runs.launch import launcher


def evaluate(
    source: str | Path | nn.Module,
    *,
    suite: str = "standard",
    data: Any = None,
    image_size: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    n: int | None = None,
    epsilon: float | str | None = None,
    norm: str | None = None,
    model: str | None = None,
    model_args: dict[str, Any] | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    devices: int = 1,
    seed: int = 0,
    progress: bool = True,
    search_precision: str = "fp32",
    transfer_from: str | Path | nn.Module | None = None,
    partial: Path | None = None,
    save_examples: Path | None = None,
) -> Evaluation:
    """Measure robust accuracy on the test split, fp32.

    Args:
        source: what ``load_classifier`` takes, or a network from images (B, C, H, W) in [0, 1] to logits.
        suite: fgsm, pgd, quick, standard or full; see ``headstart list suites``.
        data: name of a data set, or whatever ``from_python`` takes; default what the weights were trained with.
        image_size: cut the centre out of images of mixed sizes and resize it; default as in training.
        image_column, label_column: of parquet and hub sets, where they cannot be found.
        epsilon, norm: default what the weights were trained with.
        n: only the first n test images; default all.
        devices: processes that share the work, each on a device of its own or on a part of the cores. The result is
            that of one process with as many threads. They are further copies of the running command, as in training.
        search_precision: fp32, or tf32 or bf16 to let attacks search faster; verdicts stay fp32.
        transfer_from: a second network for suite full: what ``source`` may be, of the same classes.
        partial: file for finished attacks, from which the same call continues after an interruption.
        save_examples: .safetensors file for the worst example of each image.

    Raises:
        UserError: unusable source, data, suite or threat model.
    """
    if devices < 1:
        raise UserError(f"devices is {devices}; it must be at least 1")
    if save_examples is not None and save_examples.suffix != ".safetensors":
        raise UserError(f"save_examples is {save_examples}; its name must end in .safetensors")
    for path in (partial, save_examples):
        if path is not None:
            check_writable(path)
    hardware = _launched(pick_device(device), devices)
    tested = find_subject(
        source, data=data, image_size=image_size, image_column=image_column, label_column=label_column, n=n,
        epsilon=epsilon, norm=norm, model=model, model_args=model_args,
    )  # fmt: skip
    second = None if transfer_from is None else _network(transfer_from, len(tested.test.classes), tested.test)
    x, y = tested.test.tensors()
    evaluation = evaluate_model(
        tested.network,
        x,
        y,
        tested.threat,
        suite,
        batch_size=batch_size,
        device=hardware,
        seed=seed,
        progress=progress,
        total=tested.total,
        search_precision=search_precision,
        transfer_from=second,
        partial=partial,
        save_examples=save_examples,
    )
    return replace(evaluation, warnings=[*evaluation.warnings, *_copies(tested, data)])


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and on what.

    Attributes:
        network: from images (B, C, H, W) in [0, 1] to logits.
        test: the test images, or the first of them.
        total: how many there are.
        threat: the threat model.
        origin: what the weights say of their training.
    """

    network: nn.Module
    test: ImageSet
    total: int
    threat: ThreatModel
    origin: dict[str, str]


def find_subject(
    source: str | Path | nn.Module,
    *,
    data: Any = None,
    image_size: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    n: int | None = None,
    epsilon: float | str | None = None,
    norm: str | None = None,
    model: str | None = None,
    model_args: dict[str, Any] | None = None,
) -> Subject:
    """The network and the test images that the arguments of ``evaluate`` name, which see; errors likewise."""
    found: Found | None = None
    if data is not None:
        named = isinstance(data, str)
        found = find(data, "test", image_column, label_column) if named else from_python(data, "test images")
    if isinstance(source, nn.Module):
        classifier = Classifier(source, {})
    else:
        classes = len(found.classes) if found is not None else 10
        classifier = load_classifier(source, model=model, model_args=model_args, classes=classes)
    origin = classifier.origin
    if found is None:
        if "data" not in origin:
            raise UserError("which data? name it with --data (headstart list datasets)")
        columns = (image_column or origin.get("image_column"), label_column or origin.get("label_column"))
        found = find(origin["data"], "test", *columns)
    if n is not None and not 0 < n <= len(found):
        raise UserError(f"n is {n}; {found.name} has {len(found)} images, so 1 to {len(found)}")
    epsilon = epsilon if epsilon is not None else origin.get("epsilon")
    if epsilon is None:
        raise UserError("which epsilon? give it with --epsilon, such as 8/255")
    threat = ThreatModel(pixel_fraction(epsilon), norm or origin.get("norm", "linf"))
    if image_size is None and "image_size" in origin and not isinstance(found, ImageSet):
        image_size = int(origin["image_size"])
    test = _suited(in_memory(found, image_size, n), origin)
    if not isinstance(source, nn.Module):
        trained = len(json.loads(origin.get("classes", "[]")))
        check_network(classifier.network, test.shape, trained or len(test.classes), test.name)
    network = classifier.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Subject(network, test, len(found), threat, origin)


def _copies(tested: Subject, data: Any) -> list[str]:
    """Warnings of test images that the network was trained on.

    Only where the weights name a set that fits the memory, and one that is at hand: the one that the test images
    belong to, or files of this machine. Nothing is downloaded for this.
    """
    origin = tested.origin
    if "data" not in origin or "image_size" in origin:
        return []
    if not (data is None or data == origin["data"] or origin["data"].startswith(("digits", "parquet:", "folder:"))):
        return []
    try:
        training = find(origin["data"], "train", origin.get("image_column"), origin.get("label_column"))
        images, _ = _suited(in_memory(training), origin).tensors()
    except UserError:  # weights are evaluated on machines that do not have their training images
        return []
    return warnings_of_overlap(tested.test.tensors()[0], images)


def pick_device(name: str) -> torch.device:
    """The device of that name; auto takes CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise unknown("device", name, ("auto", "cpu", "cuda")) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda is not available on this machine; use --device cpu")
    return device


def _launched(device: torch.device, devices: int) -> torch.device:
    """This process's device, once there are as many processes as asked for, or as torchrun or SLURM started."""
    started = launcher()
    devices, nodes = started[1:] if started else (devices, 1)
    if devices * nodes == 1 or distributed.world_size() > 1:
        return device
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise UserError(f"devices is {devices}, but this machine has {torch.cuda.device_count()} CUDA devices")
    fabric = Fabric(accelerator=device.type, devices=devices, num_nodes=nodes, strategy="ddp")
    fabric.launch()
    return fabric.device


def _network(source: str | Path | nn.Module, classes: int, test: ImageSet) -> nn.Module:
    """The second network of a transfer attack, which must take the same images."""
    network = source if isinstance(source, nn.Module) else load_classifier(source, classes=classes).network
    check_network(network, test.shape, classes, test.name)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _suited(test: ImageSet, origin: dict[str, str]) -> ImageSet:
    """The test set as the weights need it: grey images become RGB for a network of colour images.

    Raises:
        UserError: other classes than the weights were trained on, or colour images for a network of grey ones.
    """
    trained = json.loads(origin.get("classes", "[]"))
    unnamed = [str(k) for k in range(len(trained))]
    subset = trained == unnamed and list(test.classes) == unnamed[: len(test.classes)]  # not every class has an image
    if trained and len(test.classes) != len(trained) and not subset:
        raise UserError(
            f"{test.name} has {len(test.classes)} classes, but the weights were trained on the {len(trained)} of "
            f"{origin.get('data', 'other data')}; evaluate them on data with those classes"
        )
    channels = int(origin.get("channels", test.shape[0]))
    if channels == 1 and test.shape[0] == 3:
        raise UserError(f"{test.name} is in colour, but the weights were trained on grey images; choose other --data")
    if channels == 3 and test.shape[0] == 1:
        return ImageSet(test.images.expand(-1, -1, -1, 3), test.labels, test.classes, test.name)
    return test
