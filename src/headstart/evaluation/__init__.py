"""Robust accuracy, measured, and the reasons there may be not to trust it."""
