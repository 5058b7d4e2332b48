"""From a name to batches, in one direction:

sources    a name, to the split behind it: files, tables, or the hub
columns    which of a table's hold images and labels
encoded    that split: labels, and one image at a time, still encoded
decode     images to pixels: at their own size, or cropped and resized
images     pixels and labels of a whole split in memory; cache keeps them on disk for the next start
resident   batches cut on the device, with crops and flips, from a split that lives there
streamed   the same batches from worker processes that decode ahead, for what does not fit or differs in size
check      both splits, before a training: their classes, and the test images
loading    what training and evaluation call: it chooses between the last two
"""

from headstart.data.images import ImageSet
from headstart.data.loading import Found, Loader, TrainingSet, divided, from_python, in_memory, load, make_loader
from headstart.data.resident import Batch, ResidentLoader
from headstart.data.sources import SOURCES, find
from headstart.data.streamed import StreamedLoader, StreamedSet

__all__ = [
    "SOURCES",
    "Batch",
    "Found",
    "ImageSet",
    "Loader",
    "ResidentLoader",
    "StreamedLoader",
    "StreamedSet",
    "TrainingSet",
    "divided",
    "find",
    "from_python",
    "in_memory",
    "load",
    "make_loader",
]
