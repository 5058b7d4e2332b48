"""The network, images and labels of the attacks' tests."""

from tests.attacks.conftest import images, labels, network, threat

__all__ = ["images", "labels", "network", "threat"]
