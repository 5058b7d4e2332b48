"""From a name to batches: sources make an ImageSet, a loader keeps it on the device and cuts batches from it."""

from headstart.data.images import ImageSet
from headstart.data.resident import Batch, ResidentLoader
from headstart.data.sources import SOURCES, load

__all__ = ["SOURCES", "Batch", "ImageSet", "ResidentLoader", "load"]
