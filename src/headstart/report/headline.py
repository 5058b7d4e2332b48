"""Sentences computed from the numbers: what happened, and what robustness cost."""

from __future__ import annotations

from collections.abc import Mapping

from headstart.report.groups import Group, collapse_epoch, watched
from headstart.report.numbers import number, percent
from headstart.report.ranking import Ranking
from headstart.report.reading import Json

# Strongest attack first: a sentence quotes the strongest that was run.
_ATTACKS = (("autoattack", "AutoAttack"), ("pgd", "PGD-20"), ("fgsm", "FGSM"))


def headline(results: list[Json], collapse: Mapping[str, Json | None]) -> str:
    """What became of plain FGSM, and of FGSM-SDI beside it.

    Args:
        results: accuracies as fractions, per method.
        collapse: per method the epoch where the monitor saw a collapse, or None where it watched and saw none;
            of a method that is missing, nothing is claimed.
    """
    by_method = {row["method"]: row for row in results}
    named = (("fgsm", "Plain FGSM"), ("fgsm-sdi", "FGSM-SDI"))
    clauses = [f"{name} {_fate(by_method[key], collapse)}" for key, name in named if key in by_method]
    return "; ".join(clauses) + "." if clauses else "Robust accuracy and its cost, measured."


def bargain(results: list[Json], ranks: Ranking | None) -> str:
    """Which method is the most robust, and what it cost beside FGSM-SDI or, if that is FGSM-SDI, beside PGD-AT."""
    attack = strongest_attack(results)
    if attack is None or ranks is None:
        return ""
    sentence = f"{ranks.sentence(f'accuracy under {attack[1]}')}."
    best = next(row for row in results if row["method"].upper() == ranks.best[0])
    other_method = "pgd-at" if best["method"] == "fgsm-sdi" else "fgsm-sdi"
    other = next((row for row in results if row["method"] == other_method), None)
    if len(ranks.best) > 1 or other is None or not other.get("seconds") or not best.get("seconds"):
        return sentence
    ratio = best["seconds"] / other["seconds"]
    seconds = f"{number(best['seconds'])} s against {number(other['seconds'])} s"
    return f"{sentence} It takes {ratio:.1f} times the training time of {other_method.upper()} ({seconds})."


def strongest_attack(results: list[Json]) -> tuple[str, str] | None:
    """Key and name of the strongest attack that every method was measured by."""
    return next((attack for attack in _ATTACKS if all(row.get(attack[0]) is not None for row in results)), None)


def standing(groups: list[Group], ranks: Ranking | None) -> str:
    """The highest robust accuracy among groups measured in the same way; empty where none can be named."""
    if ranks is None:
        return ""
    measured = next(group.measured for group in groups if group.accuracy("robust"))
    if ranks.of == 1:
        return f"{ranks.best[0]}: robust accuracy {percent(ranks.accuracy, '%')} ({measured})"
    return ranks.sentence("robust accuracy", f" ({measured})")


def collapses(runs: list[Json]) -> str:
    """Which runs collapsed, and whether all of them were watched for it."""
    seen = [(run["name"], epoch) for run in runs if (epoch := collapse_epoch(run)) is not None]
    if seen:
        return "Collapsed: " + ", ".join(f"{name} at epoch {epoch}" for name, epoch in seen) + "."
    seeing = sum(map(watched, runs))
    if not seeing:
        who = "It was" if len(runs) == 1 else "The runs were"
        return f"{who} never validated, so nobody watched for a collapse."
    if seeing < len(runs):
        return f"No collapse was seen, but only {seeing} of {len(runs)} runs were watched for it."
    return "No run collapsed." if len(runs) > 1 else "It did not collapse."


def _fate(row: Json, collapse: Mapping[str, Json | None]) -> str:
    attack = strongest_attack([row])
    keeps = "was not attacked" if attack is None else f"keeps {percent(row[attack[0]], '%')} under {attack[1]}"
    if row["method"] not in collapse:
        return keeps
    seen = collapse[row["method"]]
    if seen is None:
        return f"did not collapse in this run and {keeps}"
    return f"collapsed at epoch {seen['epoch']} and {keeps}"
