"""Fast adversarial training of image classifiers, and evaluations of their robustness that can be trusted."""

__version__ = "0.1.0"
