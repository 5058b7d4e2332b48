"""The network, images and labels of the attacks' tests."""

from tests.attacks.conftest import images, labels, network, one_thread, threat

__all__ = ["images", "labels", "network", "one_thread", "threat"]
