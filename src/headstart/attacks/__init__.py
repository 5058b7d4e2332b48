"""Evaluation attacks. They know the threat model and a model's logits, and no training method."""

from headstart.attacks.fgsm import fgsm
from headstart.attacks.pgd import pgd

__all__ = ["fgsm", "pgd"]
