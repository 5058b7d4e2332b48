"""Runs to and from the Hugging Face hub: weights without pickles, the recipe, the measured robustness and a card."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile

from headstart.errors import SettingError, StorageError, WeightsError, extra
from headstart.runs.card import card
from headstart.runs.folder import CONFIG, EVALUATION, WEIGHTS

with extra("hub"):
    from huggingface_hub import CommitOperationAdd, HfApi, get_token, snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError, of whichever HTTP library it uses
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

CARD = "README.md"
FILES = (WEIGHTS, CONFIG, EVALUATION, CARD)


def push(run: Path | str, repo: str, *, private: bool = False) -> str:
    """Upload a finished run as OWNER/NAME, made if it does not exist: one commit of weights, recipe, record and card.

    Returns:
        The address of the repository.

    Raises:
        UserError: no finished run, no token, no right to write there, or the hub cannot be reached.
    """
    run = Path(run)
    for name in (WEIGHTS, CONFIG):
        if not (run / name).is_file():
            raise WeightsError(f"{run} has no {name}; push the folder of a finished run")
    if get_token() is None:
        raise SettingError("no token for the hub: run hf auth login, or set HF_TOKEN to one with the right to write")
    uploads = [CommitOperationAdd(name, run / name) for name in (WEIGHTS, CONFIG, EVALUATION) if (run / name).is_file()]
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
        raise StorageError(f"{out} exists; choose a folder that is new or empty")
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
        raise WeightsError(f"{repo} has no {WEIGHTS} on the hub; headstart reads what headstart push wrote")
    return folder


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """One line for what the hub's client raises."""
    if repo.count("/") != 1:
        raise SettingError(f"{repo!r} is not a name on the hub; write OWNER/NAME")
    try:
        yield
    except HFValidationError as error:
        raise SettingError(f"{repo!r} is not a name on the hub; write OWNER/NAME") from error
    except GatedRepoError as error:
        raise StorageError(f"{repo} is gated: ask for access on its page, then hf auth login") from error
    except RepositoryNotFoundError as error:
        raise StorageError(f"the hub shows no {repo}: check the name, or hf auth login for a private one") from error
    except LocalEntryNotFoundError as error:
        raise StorageError(
            f"the hub cannot be reached, and {repo} is not in its cache; is this machine offline?"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise StorageError(f"the hub refuses {repo} ({status}): is the token yours, and may it write?") from error
        raise StorageError(f"the hub answers {status} for {repo}: {' '.join(str(error).split())[:200]}") from error
    except (HTTPError, OSError) as error:
        raise StorageError(f"the hub cannot be reached ({error}); is this machine offline?") from error
