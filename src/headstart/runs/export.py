"""A trained network in other programs' formats, each checked against the network that it came from."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headstart.data import find, in_memory
from headstart.errors import DataError, SettingError, WeightsError, extra, unknown
from headstart.models import normalization_of
from headstart.runs.classifier import Classifier, load_classifier
from headstart.runs.files import atomically, check_folder, check_writable, write_text
from headstart.runs.folder import RunFolder

log = logging.getLogger(__name__)

CHECKED = 32
"""Images on which the exported network must answer as the original does."""
TOLERANCE = 1e-4
"""Largest difference of logits, as a share of the largest logit."""
ROBUSTBENCH_SETS, ROBUSTBENCH_NORMS = ("cifar10", "cifar100", "imagenet"), {"linf": "Linf", "l2": "L2"}


@dataclass(frozen=True)
class Export:
    """What is written, and where.

    Attributes:
        source: the run or weights, as given.
        classifier: its network, in evaluation mode on the CPU, and what its file says of it.
        images: fp32 (N, C, H, W) in [0, 1] that the result is checked on.
        scores: the record of its evaluation; empty where there is none.
        out: file, or folder for RobustBench.
        name: of the model.
    """

    source: str
    classifier: Classifier
    images: Tensor
    scores: dict[str, Any]
    out: Path
    name: str

    @property
    def network(self) -> nn.Module:
        """The network."""
        return self.classifier.network

    @property
    def model_args(self) -> dict[str, Any]:
        """Arguments that the network was built with."""
        args: dict[str, Any] = json.loads(self.classifier.origin.get("model_args", "{}"))
        return args

    def facts(self) -> dict[str, Any]:
        """What a user of the file must know: input, classes, threat model, measured accuracies."""
        origin = self.classifier.origin
        scores = {key: self.scores[key] for key in ("suite", "n", "clean", "robust", "epsilon", "norm") if self.scores}
        return {
            "input": {"range": [0.0, 1.0], "shape": ["N", *self.images.shape[1:]], "type": "float32"},
            "normalization": normalization_of(self.network) or None,
            "classes": json.loads(origin["classes"]) if "classes" in origin else None,
            "model": origin.get("model"),
            "model_args": self.model_args,
            **{key: origin.get(key) for key in ("method", "data", "norm", "epsilon")},
            "measured": scores or None,
        }


def export(
    source: str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    data: str | None = None,
    model: str | None = None,
    model_args: dict[str, Any] | None = None,
    name: str | None = None,
) -> list[Path]:
    """Write a network for programs that do not have this library, normalisation inside.

    The result is read again and must give the logits of the network on test images.

    Args:
        source: what ``load_classifier`` takes.
        to: one of ``FORMATS``.
        out: the file, or for "robustbench" the folder that holds ``models/`` and ``model_info/``; default beside the
            run or weights.
        data: test images to check on; default those of the set that the network was trained on.
        model, model_args: the network of plain weights.
        name: of the model; default the run's or file's.

    Returns:
        The files: the network first, then what describes it.

    Raises:
        UserError: an unknown format, an unusable source or data, a missing package, a network that the format cannot
            hold, or one that answers otherwise than the original.
    """
    if to not in FORMATS:
        raise unknown("format", to, FORMATS)
    ending, write = FORMATS[to]
    path = Path(source)
    name = name or path.name.removesuffix(path.suffix if path.is_file() else "").split(":")[-1]
    target = _target(path, out, name, to, ending)
    classifier = load_classifier(source, model=model, model_args=model_args)
    classifier.network.eval().requires_grad_(False)
    scores = _record(RunFolder(path).evaluation) if path.is_dir() else {}
    return write(Export(str(source), classifier, _images(classifier.origin, data), scores, target, name))


def _target(source: Path, out: str | Path | None, name: str, to: str, ending: str) -> Path:
    """Where the result goes: a file, or a folder where the format has no ending.

    Raises:
        UserError: another kind of place, or one that cannot be written.
    """
    target = Path(out) if out is not None else (source if source.is_dir() else source.parent) / f"{name}{ending}"
    if ending and (target.suffix != ending or target.is_dir()):
        raise SettingError(f"out is {target}; a file for {to} ends in {ending}")
    (check_writable if ending else check_folder)(target)
    return target


def _images(origin: dict[str, str], data: str | None) -> Tensor:
    """The first test images, fp32 (N, C, H, W)."""
    where = data or origin.get("data")
    if where is None:
        raise SettingError("which images is the result to be checked on? the source does not say; name a set as data")
    columns = (None, None) if data else (origin.get("image_column"), origin.get("label_column"))
    found = find(where, "test", *columns)
    size = int(origin["image_size"]) if "image_size" in origin else None
    return in_memory(found, size, min(CHECKED, len(found))).tensors()[0].float() / 255


def _record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    record: dict[str, Any] = json.loads(path.read_text())
    return record


@torch.no_grad()
def _check(task: Export, answer: Callable[[Tensor], Tensor], form: str) -> None:
    """See that the exported network gives the logits of the original.

    Raises:
        WeightsError: it does not.
    """
    for images in (task.images, task.images[:1]):  # of another batch size, too
        expected = task.network(images)
        difference = float((answer(images) - expected).abs().max() / expected.abs().max())
        if not difference <= TOLERANCE:
            raise WeightsError(
                f"the {form} file of {task.source} gives other logits (by {difference:.1e} of the largest): not kept"
            )
    log.info("%s: logits agree on %d test images", form, len(task.images))


def _kept(task: Export, write: Callable[[str], object], check: Callable[[Path], None]) -> list[Path]:
    """The file, written and checked under another name before it takes its own; and its description."""
    draft = task.out.with_name(f"draft-{task.out.name}")
    try:
        atomically(draft, write)
        check(draft)
        atomically(task.out, lambda temporary: Path(temporary).write_bytes(draft.read_bytes()))
    finally:
        draft.unlink(missing_ok=True)
    described = task.out.with_name(f"{task.out.name}.json")
    write_text(described, json.dumps(task.facts(), indent=2) + "\n")
    return [task.out, described]


def _onnx(task: Export) -> list[Path]:
    """ONNX, with any batch size: input "images", output "logits"; what describes it is in its metadata, too."""
    with extra("export"):
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter needs it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own inside
            program = torch.onnx.export(
                task.network, (task.images,), dynamo=True, verbose=False, input_names=["images"],
                output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("batch")},),
            )  # fmt: skip
    except Exception as error:  # the exporter raises a type of its own for each stage
        raise WeightsError(f"{task.source} cannot be written as ONNX: {str(error).splitlines()[0]}") from error
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"headstart": json.dumps(task.facts())})

    def check(path: Path) -> None:
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        _check(task, lambda x: torch.from_numpy(np.asarray(session.run(None, {"images": x.numpy()})[0])), "ONNX")

    return _kept(task, lambda temporary: onnx.save(proto, temporary, format="protobuf"), check)


def _torchscript(task: Export) -> list[Path]:
    """TorchScript by tracing, with any batch size: ``torch.jit.load`` in Python and C++."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises its newer format
        traced = torch.jit.trace(task.network, task.images, check_trace=False)  # type: ignore[no-untyped-call]

        def check(path: Path) -> None:
            loaded = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
            _check(task, loaded, "TorchScript")

        return _kept(task, traced.save, check)


def _state_dict(task: Export) -> list[Path]:
    """A plain state dict by torch.save under the key "state_dict", with mean and deviation of the normalisation."""
    return _kept(
        task,
        lambda temporary: torch.save({"state_dict": _state_of(task)}, temporary),
        lambda path: _check_weights(task, path, "state dict"),
    )


def _robustbench(task: Export) -> list[Path]:
    """``models/DATASET/NORM/NAME.pt`` and ``model_info/DATASET/NORM/NAME.json``, as RobustBench's loader names them."""
    origin = task.classifier.origin
    data, norm = origin.get("data", "unknown").rpartition("/")[2], ROBUSTBENCH_NORMS.get(origin.get("norm", ""), "Linf")
    if data not in ROBUSTBENCH_SETS:
        log.warning("RobustBench has %s; its loader does not know %s", ", ".join(ROBUSTBENCH_SETS), data)
    place = Path(data) / norm
    weights = replace(task, out=task.out / "models" / place / f"{task.name}.pt")
    files = _kept(
        weights,
        lambda temporary: torch.save({"state_dict": _state_of(task)}, temporary),
        lambda path: _check_weights(task, path, "RobustBench"),
    )
    described = task.out / "model_info" / place / f"{task.name}.json"
    write_text(described, json.dumps(_model_info(task, data), indent=2) + "\n")
    return [*files, described]


def _model_info(task: Export, data: str) -> dict[str, Any]:
    """The entry of RobustBench's table: accuracies in percent, AutoAttack's only where it was run."""
    origin, scores = task.classifier.origin, task.scores
    epsilon = float(scores.get("epsilon", origin.get("epsilon", "nan")))
    info = {
        "link": "",
        "name": task.name,
        "authors": "",
        "additional_data": False,
        "number_forward_passes": 2 if task.model_args.get("mirrored") else 1,
        "dataset": data,
        "venue": "unpublished",
        "architecture": origin.get("model", ""),
        "eps": f"{255 * epsilon:.4g}/255" if epsilon == epsilon else "",
    }
    if scores:
        info["clean_acc"] = f"{100 * scores['clean']:.2f}"
    if scores.get("suite") == "standard":
        info["autoattack_acc"] = f"{100 * scores['robust']:.2f}"
        info["footnote"] = f"AutoAttack on {scores['n']} test images, by headstart."
    return info


def _state_of(task: Export) -> dict[str, Tensor]:
    """The state dict; where the network normalises, with ``mu`` and ``sigma``, as RobustBench's networks have them."""
    state = {name: tensor.contiguous() for name, tensor in task.network.state_dict().items()}
    found = normalization_of(task.network)
    shapes = {"mu": found["mean"], "sigma": found["std"]} if found else {}
    return state | {name: torch.tensor(values).view(1, -1, 1, 1) for name, values in shapes.items()}


def _check_weights(task: Export, path: Path, form: str) -> None:
    """See that the weights load as a stranger's do."""
    origin = task.classifier.origin
    args = {k: v for k, v in task.model_args.items() if k not in ("mean", "std")}
    name = origin.get("model")
    if name is None:
        raise DataError(f"{task.source} does not say its network; give model")
    classes = task.network(task.images[:1]).shape[1]
    loaded = load_classifier(path, model=name, model_args=args, classes=classes)
    _check(task, loaded.network.eval(), form)


FORMATS: dict[str, tuple[str, Callable[[Export], list[Path]]]] = {
    "onnx": (".onnx", _onnx),
    "torchscript": (".ts", _torchscript),
    "state_dict": (".pt", _state_dict),
    "robustbench": ("", _robustbench),
}
"""Endings and writers by name."""
