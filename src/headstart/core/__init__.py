"""The shape every method has: Step, Target, Part, Method."""

from headstart.core.method import Method, Part, TaskInfo
from headstart.core.step import Clock, Step
from headstart.core.target import Passes, Target

__all__ = ["Clock", "Method", "Part", "Passes", "Step", "Target", "TaskInfo"]
