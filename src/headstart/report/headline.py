"""Sentences computed from the numbers: what happened, and what robustness cost."""

from __future__ import annotations

from collections.abc import Mapping

from headstart.report.groups import Group, collapse_epoch, comparable, curve
from headstart.report.numbers import number, percent
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


def bargain(results: list[Json]) -> str:
    """Which method is the most robust, and what it cost beside FGSM-SDI or, if that is FGSM-SDI, beside PGD-AT."""
    attack = strongest_attack(results)
    if attack is None:
        return ""
    key, attack_name = attack
    best = max(results, key=lambda row: row[key])
    accuracy = f"{percent(best[key], '%')} under {attack_name}"
    equals = [row["method"].upper() for row in results if row[key] == best[key]]
    if len(equals) > 1:
        return f"{_listed(equals)} are equally robust ({accuracy}); no method of the {len(results)} is more so."
    sentence = f"{equals[0]} is the most robust of the {len(results)} methods ({accuracy})"
    other_method = "pgd-at" if best["method"] == "fgsm-sdi" else "fgsm-sdi"
    other = next((row for row in results if row["method"] == other_method), None)
    if other is None or not other.get("seconds") or not best.get("seconds"):
        return sentence + "."
    ratio = best["seconds"] / other["seconds"]
    seconds = f"{number(best['seconds'])} s against {number(other['seconds'])} s"
    return f"{sentence}, at {ratio:.1f} times the training time of {other_method.upper()} ({seconds})."


def strongest_attack(results: list[Json]) -> tuple[str, str] | None:
    """Key and name of the strongest attack that every method was measured by."""
    return next((attack for attack in _ATTACKS if all(row.get(attack[0]) is not None for row in results)), None)


def standing(groups: list[Group]) -> str:
    """The highest robust accuracy among groups measured in the same way; empty where none can be named."""
    robust = [(group, value) for group in groups if (value := group.spread("evaluation", "robust"))]
    if not robust or not comparable(groups):
        return ""
    group, best = max(robust, key=lambda pair: pair[1].mean)
    accuracy = f"{percent(best.mean, '%')} ({group.measured})"
    if len(robust) == 1:
        return f"{group.title}: robust accuracy {accuracy}"
    equals = [group.title for group, value in robust if value.mean == best.mean]
    have = "has" if len(equals) == 1 else "have"
    return f"{_listed(equals)} {have} the highest robust accuracy of the {len(robust)} measured: {accuracy}"


def collapses(runs: list[Json]) -> str:
    """Which runs collapsed, and whether all of them were watched for it."""
    seen = [(run["name"], epoch) for run in runs if (epoch := collapse_epoch(run)) is not None]
    if seen:
        return "Collapsed: " + ", ".join(f"{name} at epoch {epoch}" for name, epoch in seen) + "."
    watched = sum(any("pgd" in row for row in curve(run)) for run in runs)
    if watched < len(runs):
        return f"No collapse was seen, but only {watched} of {len(runs)} runs were watched for it."
    return "No run collapsed." if len(runs) > 1 else "It did not collapse."


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _fate(row: Json, collapse: Mapping[str, Json | None]) -> str:
    attack = strongest_attack([row])
    keeps = "was not attacked" if attack is None else f"keeps {percent(row[attack[0]], '%')} under {attack[1]}"
    if row["method"] not in collapse:
        return keeps
    seen = collapse[row["method"]]
    if seen is None:
        return f"did not collapse in this run and {keeps}"
    return f"collapsed at epoch {seen['epoch']} and {keeps}"
