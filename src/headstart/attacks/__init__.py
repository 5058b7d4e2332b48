"""The attacks of evaluations. They know the threat model and a model's logits, and no training method.

Each takes ``(model, x, y, threat)``, the model in evaluation mode, and returns adversarial examples of the shape of
``x`` that are inside the threat model; mode, weights and gradients of the model are left as they were::

    from headstart import attacks

    x_adv = attacks.pgd(model, x, y, ThreatModel(8 / 255), steps=20)
"""

from headstart.attacks.autoattack import autoattack
from headstart.attacks.cr import cr_attack
from headstart.attacks.fgsm import fgsm
from headstart.attacks.pgd import pgd

__all__ = ["autoattack", "cr_attack", "fgsm", "pgd"]
