"""The card of a run on the hub: what was trained how, what it withstands, and how to use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headstart.errors import extra
from headstart.recipes.reader import load_recipe
from headstart.recipes.recipe import Recipe
from headstart.runs.folder import RunFolder

with extra("hub"):
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

TEMPLATE = Path(__file__).with_name("card.md.j2")


def card(run: Path, repo: str) -> str:
    """The model card as Markdown; its metadata hold the accuracies of evaluation.json, where there is one."""
    folder = RunFolder(run)
    recipe = load_recipe(str(folder.config))
    evaluation = json.loads(folder.evaluation.read_text()) if folder.evaluation.is_file() else None
    name = repo.partition("/")[2]
    data = ModelCardData(
        library_name="headstart",
        pipeline_tag="image-classification",
        tags=["adversarial-training", "robustness", recipe.method],
        model_name=name if evaluation else None,
        eval_results=_results(recipe, evaluation) if evaluation else None,
    )
    made = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        repo=repo,
        name=name,
        recipe=recipe,
        config=folder.config.name,
        evaluation=evaluation,
    )
    return f"{made}\n"


def _results(recipe: Recipe, evaluation: dict[str, Any]) -> list[EvalResult]:
    """Clean and robust accuracy, fractions of the test images, with how they were measured."""
    images: dict[str, Any] = {"n": evaluation["n"]}
    attack = {key: evaluation[key] for key in ("suite", "norm", "epsilon") if key in evaluation}
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=recipe.data,
            dataset_name=recipe.data,
            dataset_split="test",
            metric_type="accuracy",
            metric_name=f"{kind} accuracy",
            metric_value=evaluation[kind],
            metric_args=measured,
        )
        for kind, measured in (("clean", images), ("robust", images | attack))
    ]
