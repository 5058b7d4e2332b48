"""What is evaluated, and on what: which network, which test images, which threat model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstart.core.threat import ThreatModel
from headstart.data import Found, ImageSet, find, from_python, in_memory
from headstart.errors import DataError, SettingError, UserError
from headstart.evaluation.settings import EvaluationSettings
from headstart.fields import pixel_fraction
from headstart.models import check_network
from headstart.runs.classifier import Classifier, load_classifier

Source = str | Path | nn.Module
"""What ``load_classifier`` takes, or a network from images (B, C, H, W) in [0, 1] to logits (B, K)."""


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


def find_subject(source: Source, settings: EvaluationSettings, data: Any = None) -> Subject:
    """The network, the test images and the threat model that the settings name.

    Args:
        data: test images from Python, in place of ``settings.data``: whatever ``from_python`` takes.

    Raises:
        UserError: an unusable source, data that does not belong to it, or a bad threat model.
    """
    found = _named_data(settings, data)
    classifier = _classifier(source, settings, 10 if found is None else len(found.classes))
    origin = classifier.origin
    if found is None:
        found = _data_of_training(settings, origin)
    n, image_size = settings.n, settings.image_size
    if n is not None and not 0 < n <= len(found):
        raise SettingError(f"n is {n}; {found.name} has {len(found)} images, so 1 to {len(found)}")
    threat = _threat(settings, origin)
    if image_size is None and "image_size" in origin and not isinstance(found, ImageSet):
        image_size = int(origin["image_size"])
    test = _suited(in_memory(found, image_size, n), origin)
    if not isinstance(source, nn.Module):
        trained = len(_classes(origin))
        check_network(classifier.network, test.shape, trained or len(test.classes), test.name)
    return Subject(_fast(classifier.network), test, len(found), threat, origin)


def second_network(source: Source, test: ImageSet) -> nn.Module:
    """The second network of a transfer attack.

    Raises:
        UserError: an unusable source, or a network that does not take the test images.
    """
    classes = len(test.classes)
    network = source if isinstance(source, nn.Module) else load_classifier(source, classes=classes).network
    check_network(network, test.shape, classes, test.name)
    return _fast(network)


def training_images(subject: Subject, data: Any) -> Tensor | None:
    """The images (M, C, H, W), uint8, that the network was trained on, as the subject's test images are.

    Only where the weights name a set that fits the memory, and one that is at hand: the one that the test images
    belong to (``data`` is what was asked for), or files of this machine. Nothing is downloaded for this.
    """
    origin = subject.origin
    if "data" not in origin or "image_size" in origin:
        return None
    name = origin["data"]
    if not (data is None or data == name or name.startswith(("digits", "parquet:", "folder:"))):
        return None
    try:
        training = find(name, "train", origin.get("image_column"), origin.get("label_column"))
        return _suited(in_memory(training), origin).tensors()[0]
    except UserError:  # weights are evaluated on machines that do not have their training images
        return None


def _named_data(settings: EvaluationSettings, data: Any) -> Found | None:
    """The test images that were asked for by name or from Python."""
    if data is not None:
        return from_python(data, "test images")
    if settings.data is not None:
        return find(settings.data, "test", settings.image_column, settings.label_column)
    return None


def _data_of_training(settings: EvaluationSettings, origin: dict[str, str]) -> Found:
    """The test images of the set that the weights were trained on."""
    if "data" not in origin:
        raise SettingError("which data? the source does not say it; name them (headstart list datasets)")
    columns = (getattr(settings, key) or origin.get(key) for key in ("image_column", "label_column"))
    return find(origin["data"], "test", *columns)


def _classifier(source: Source, settings: EvaluationSettings, classes: int) -> Classifier:
    if isinstance(source, nn.Module):
        return Classifier(source, {})
    return load_classifier(source, model=settings.model, model_args=settings.model_args, classes=classes)


def _threat(settings: EvaluationSettings, origin: dict[str, str]) -> ThreatModel:
    epsilon = settings.epsilon if settings.epsilon is not None else origin.get("epsilon")
    if epsilon is None:
        raise SettingError("which epsilon? the source does not say it; give a pixel fraction such as 8/255")
    return ThreatModel(pixel_fraction(epsilon), settings.norm or origin.get("norm", "linf"))


def _fast(network: nn.Module) -> nn.Module:
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _classes(origin: dict[str, str]) -> list[str]:
    """The names of the classes that the weights were trained on; none where they do not say."""
    return list(json.loads(origin.get("classes", "[]")))


def _suited(test: ImageSet, origin: dict[str, str]) -> ImageSet:
    """The test set as the weights need it: grey images become RGB for a network of colour images.

    Raises:
        DataError: other classes than the weights were trained on, or colour images for a network of grey ones.
    """
    trained = _classes(origin)
    unnamed = [str(k) for k in range(len(trained))]
    subset = trained == unnamed and list(test.classes) == unnamed[: len(test.classes)]  # not every class has an image
    if trained and len(test.classes) != len(trained) and not subset:
        raise DataError(
            f"{test.name} has {len(test.classes)} classes, but the weights were trained on the {len(trained)} of "
            f"{origin.get('data', 'other data')}; evaluate them on data with those classes"
        )
    channels = int(origin.get("channels", test.shape[0]))
    if channels == 1 and test.shape[0] == 3:
        raise DataError(f"{test.name} is in colour, but the weights were trained on grey images; choose other data")
    if channels == 3 and test.shape[0] == 1:
        return ImageSet(test.images.expand(-1, -1, -1, 3), test.labels, test.classes, test.name)
    return test
