"""What a training will cost, measured by a few of its updates. Nothing is written, and the data is not read whole."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, replace

import torch

from headstart.core import Clock
from headstart.data import ImageSet, Loader, TrainingSet, find
from headstart.data.decode import attempt, whole
from headstart.data.encoded import EncodedSet
from headstart.data.images import divide
from headstart.data.streamed import StreamedSet
from headstart.errors import DataError
from headstart.recipes.recipe import Recipe
from headstart.runs.launch import determinism, make_fabric
from headstart.training.feed import batches
from headstart.training.learner import Learner
from headstart.training.monitor import Monitor
from headstart.training.start import network_for
