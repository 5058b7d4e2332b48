"""The settings of an evaluation: what they accept, what a record keeps of them, and that reading them is cheap."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from headstart.errors import SettingError
from headstart.evaluation.settings import EvaluationSettings, named, settings_from


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"n": "ten"}, "n is 'ten'; it must be a whole number"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"devices": 0}, "devices is 0; it must be at least 1"),
        ({"image_size": -3}, "image_size is -3; it must be at least 1"),
        ({"epsilon": "8/0"}, "epsilon is '8/0'; write a pixel fraction such as 8/255"),
        ({"model_args": [4]}, r"model_args is \[4\]; it must be keys and values"),
        ({"search_precision": "fp16"}, "unknown search_precision 'fp16'; did you mean 'bf16'"),
        ({"siute": "pgd"}, "unknown setting of an evaluation 'siute'; did you mean 'suite'"),
    ],
)
def test_what_is_no_setting_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        settings_from(fields)


def test_settings_survive_a_record() -> None:
    settings = settings_from({"epsilon": "8/255", "model_args": {"widths": [4, 8]}, "n": 7}, data="digits")
    assert settings.epsilon == 8 / 255
    assert settings.data == "digits"
    assert EvaluationSettings(**json.loads(json.dumps(asdict(settings)))) == settings


def test_a_record_calls_objects_by_their_type() -> None:
    assert [named(source) for source in ("a:b", Path("runs/x"), nn.Identity())] == ["a:b", "runs/x", "python:Identity"]
    assert settings_from({}, data=None, transfer_from=nn.Identity()).transfer_from == "python:Identity"


@pytest.mark.parametrize("module", ["settings", "stored"])
def test_reading_takes_no_torch(module: str) -> None:
    code = f"import sys, headstart.evaluation.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
