"""Runs to and from the Hugging Face hub: weights without pickles, the recipe, the measured robustness and a card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile
from typing import Any

from headstart.errors import UserError, extra
from headstart.recipes.reader import load_recipe

with extra("hub"):
    from huggingface_hub import CommitOperationAdd, HfApi, ModelCardData, get_token, snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError, of whichever HTTP library it uses
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

WEIGHTS, RECIPE, EVALUATION, CARD = "model.safetensors", "config.yaml", "evaluation.json", "README.md"
FILES = (WEIGHTS, RECIPE, EVALUATION, CARD)


def push(run: Path | str, repo: str, *, private: bool = False) -> str:
    """Upload a finished run as OWNER/NAME, made if it does not exist: one commit of weights, recipe, record and card.

    Returns:
        The address of the repository.

    Raises:
        UserError: no finished run, no token, no right to write there, or the hub cannot be reached.
    """
    run = Path(run)
    for name in (WEIGHTS, RECIPE):
        if not (run / name).is_file():
            raise UserError(f"{run} has no {name}; push the folder of a finished run")
    if get_token() is None:
        raise UserError("no token for the hub: run hf auth login, or set HF_TOKEN to one with the right to write")
    uploads = [CommitOperationAdd(name, run / name) for name in (WEIGHTS, RECIPE, EVALUATION) if (run / name).is_file()]
    uploads.append(CommitOperationAdd(CARD, card(run, repo).encode()))
    with _explained(repo):
        api = HfApi(library_name="headstart")
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.create_commit(repo, uploads, commit_message="Upload by headstart push")
    return str(address)


def pull(repo: str, out: Path | str) -> Path:
    """Download OWNER/NAME into a new folder that evaluation takes like a run's.

    Raises:
        UserError: the folder exists and is not empty, or see ``fetch``.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists; choose another --out")
    fetched = fetch(repo)
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (fetched / name).is_file():
            copyfile(fetched / name, out / name)
    return out


def fetch(repo: str) -> Path:
    """The folder of OWNER/NAME in the hub's cache, as new as the hub has it, or as the cache where that is not reached.

    Raises:
        UserError: no such repository or none of ours, no right to read it, or neither hub nor cache has it.
    """
    with _explained(repo):
        folder = Path(snapshot_download(repo, allow_patterns=list(FILES), library_name="headstart"))
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{repo} has no {WEIGHTS} on the hub; headstart reads what headstart push wrote")
    return folder


def card(run: Path, repo: str) -> str:
    """The model card: what was trained how, the numbers of evaluation.json, and how to use it."""
    recipe = load_recipe(str(run / RECIPE))
    data = ModelCardData(
        library_name="headstart",
        pipeline_tag="image-classification",
        tags=["adversarial-training", "robustness", recipe.method],
    )
    epsilon = f"{float(recipe.epsilon):.4g} ({float(recipe.epsilon) * 255:.3g}/255)"
    return f"""---
{data.to_yaml()}
---

# {repo.partition("/")[2]}

`{recipe.model}` trained on `{recipe.data}` with `{recipe.method}` against perturbations of {recipe.norm} norm at most
{epsilon} of the pixel range, {recipe.epochs} epochs, seed {recipe.seed}. Every setting is in `{RECIPE}`.

## Measured

{_measured(run)}

## Use

Images are in [0, 1]; normalisation, where there is any, is inside the network.

```sh
headstart evaluate hub:{repo}
```

```python
from headstart import load_classifier

network = load_classifier("hub:{repo}").network.eval()
```
"""


def _measured(run: Path) -> str:
    path = run / EVALUATION
    if not path.is_file():
        return "Not yet: robust accuracy comes from `headstart evaluate`."
    record: dict[str, Any] = json.loads(path.read_text())
    rows = [("clean", record["clean"]), *record["attacks"].items(), ("robust", record["robust"])]
    table = "\n".join(f"| {name} | {100 * accuracy:.2f} |" for name, accuracy in rows)
    warnings = "".join(f"\n\nWarning: {warning}" for warning in record["warnings"])
    what = f"Suite `{record['suite']}`, {record['n']} test images, epsilon {record['epsilon']:.4g}"
    return f"{what}, accuracy in percent:\n\n| attack | accuracy |\n|---|---|\n{table}{warnings}"


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """One line for what the hub's client raises."""
    if repo.count("/") != 1:
        raise UserError(f"{repo!r} is not a name on the hub; write OWNER/NAME")
    try:
        yield
    except HFValidationError as error:
        raise UserError(f"{repo!r} is not a name on the hub; write OWNER/NAME") from error
    except GatedRepoError as error:
        raise UserError(f"{repo} is gated: ask for access on its page, then hf auth login") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"the hub shows no {repo}: check the name, or hf auth login for a private one") from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"the hub cannot be reached, and {repo} is not in its cache; is this machine offline?"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(f"the hub refuses {repo} ({status}): is the token yours, and may it write?") from error
        raise UserError(f"the hub answers {status} for {repo}: {' '.join(str(error).split())[:200]}") from error
    except (HTTPError, OSError) as error:
        raise UserError(f"the hub cannot be reached ({error}); is this machine offline?") from error
