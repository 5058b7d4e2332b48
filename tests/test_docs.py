"""The documents: what they say of methods is what is registered, and what they tell the reader to type works."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest
import torch
from benchmarks.time_to_robustness import cell, tables
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset

import headstart
from benchmarks import demo_seeds, evaluation
from headstart.campaigns.bench import expanded, stem_of
from headstart.campaigns.tables import tabulate
from headstart.commands.flags import given
from headstart.commands.main import main, make_parser
from headstart.core import Clock, Step, Target
from headstart.methods import registry
from headstart.methods.registry import MethodEntry, build_method, methods
from headstart.recipes.reader import load_recipe
from headstart.recipes.recipe import Recipe
from tests.helpers import CLASSES, IMAGE_SHAPE, THREAT, batches, info, sgd, tiny_net

ROOT = Path(headstart.__file__).parents[2]
DOCUMENTS = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").glob("*.md")),
]
COMPARISON = (ROOT / "docs" / "comparison.md").read_text()
INSPECT = (ROOT / "docs" / "inspect.md").read_text()
METHODS = (ROOT / "docs" / "methods.md").read_text()
COLUMNS = ["name", "update", "passes", "memory", "source", "differs from the published code"]
BLOCK = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"^(?:\w+=\S+ )*(?:\S+/|srun |-m )?headstart\s+(.*)$")
MADE = {ROOT / "docs" / "demo.html"}  # pages that no file holds: written while the site is built
SHELL = (  # what stands in a shell block beside our commands
    r"(?:\w+=\S+ )*(?:python|torchrun --nproc-per-node \d) (?P<script>benchmarks/[\w/]+\.py)(?: .*)?",
    r"python3 -m venv \.venv && \. \.venv/bin/activate",
    r'pip install "?\.?[\w\[\],-]+"?(?: .*)?',
    r"make \w+(?: .*)?",
    r"git clone \S+(?: && git clone \S+)?",
    r"export \w+=.*",
    r'eval "\$\(headstart completion bash\)"(?: .*)?',
    r"torchrun .*\\",
    r"#(?:SBATCH)? .*|#SBATCH .*",
)
PYTHON_RUN_IN = {  # the test that runs the Python blocks of a page, and how many there are
    "README.md": (2, "tests/test_docs.py"),
    "adding-a-method.md": (1, "tests/test_docs.py"),
    "evaluation.md": (3, "tests/evaluation/test_guide.py"),
    "others.md": (1, "tests/test_stranger.py"),
    "start.md": (1, "tests/test_stranger.py"),
    "your-own.md": (5, "tests/test_docs.py"),
}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def blocks(document: Path, *languages: str) -> list[str]:
    """The code blocks of a document in these languages."""
    return [code for language, code in BLOCK.findall(document.read_text()) if language in languages]


def method_rows() -> dict[str, list[str]]:
    """The rows of the methods' tables by name: the cells of the columns that all of them share, and the last."""
    rows: dict[str, list[str]] = {}
    inside = False
    for line in METHODS.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[: len(COLUMNS)] == COLUMNS:
            inside = True
        elif inside and not set(line) <= set("|-"):
            name = cells[0].strip("`")
            assert len(cells) == len(COLUMNS) + 1, f"row {name} has {len(cells)} cells; an equation with a bar?"
            assert name not in rows, f"{name} has two rows"
            rows[name] = cells
    return rows


def commands() -> Iterator[tuple[str, str]]:
    """Every ``headstart`` command line in a code block or between backticks, with its document."""
    for document in DOCUMENTS:
        text = document.read_text()
        lines = [line for code in blocks(document, "sh", "bash", "console", "") for line in code.splitlines()]
        lines += re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
        for line in lines:
            if found := COMMAND.match(line.strip().removeprefix("$ ")):
                yield document.name, found[1]


COMMANDS = sorted(set(commands()))


@pytest.fixture
def guides_method(monkeypatch: pytest.MonkeyPatch) -> MethodEntry:
    """The method that docs/adding-a-method.md writes, registered while the test runs."""
    before = methods()
    monkeypatch.setattr(registry, "_METHODS", dict(before))
    exec(textwrap.dedent(blocks(ROOT / "docs" / "adding-a-method.md", "python")[0]), {})
    (name,) = methods().keys() - before.keys()
    return methods()[name]


# -- methods ---------------------------------------------------------------------------------------------------------


def test_every_method_has_its_row() -> None:
    assert method_rows().keys() == methods().keys()


@pytest.mark.parametrize("name", methods())
def test_rows_repeat_the_registry(name: str) -> None:
    entry, row = methods()[name], method_rows()[name]
    assert row[COLUMNS.index("passes")] == entry.passes
    assert row[COLUMNS.index("source")] == entry.source
    assert all(row), "an empty cell"


def test_methods_with_a_graph_key_are_those_named() -> None:
    """A key on every batch of the second epoch, with default settings."""
    said = re.search(r"<!-- graph keys -->\n(.*?)<!-- /graph keys -->", METHODS, re.S)
    assert said is not None
    x, y, index = batches(1)[0]
    steps = [Step(x, y, THREAT, Clock(16 + b, 32, 1, 2, b), index) for b in range(3)]
    built = {name: build_method(name, info()) for name in methods()}
    assert set(re.findall(r"`([\w-]+)`", said[1])) == {
        name for name, method in built.items() if all(method.graph_key(step) is not None for step in steps)
    }
    proven = json.loads((ROOT / "benchmarks" / "results" / "h100" / "graphs.json").read_text())["methods"]
    up_to = re.findall(r"`([\w-]+)`", said[1][: said[1].index("`fast-bat`") + len("`fast-bat`")])
    assert {*up_to} - {"sdi-through"} == {*proven}
    assert max(row["largest_difference"] for row in proven.values()) < 4e-4


def test_methods_for_the_euclidean_norm_are_those_named() -> None:
    said = re.search(r"<!-- l2 -->\n(.*?)<!-- /l2 -->", METHODS, re.S)
    assert said is not None
    able = {name for name, entry in methods().items() if "l2" in entry.norms}
    assert set(re.findall(r"`([\w-]+)`", said[1])) == able


def test_the_comparison_with_published_code_is_that_of_its_record() -> None:
    text = (ROOT / "docs" / "methods.md").read_text()
    table = text.split("<!-- as published -->")[1].split("<!-- /as published -->")[0]
    rows = json.loads((ROOT / "benchmarks" / "results" / "as_published.json").read_text())["rows"]
    shown = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()[2:]]
    assert shown == [
        [
            f"`{row['method']}`",
            row["code"],
            *(f"{row['all_updates'][key]:.1e}" for key in ("perturbation", "loss", "gradient")),
            row["reason"] or "",
        ]
        for row in rows
    ]


def test_named_settings_exist() -> None:
    """The first column of the table of settings."""
    table = METHODS.split("| setting | meaning |")[1].split("\n\n")[0]
    known = {setting for entry in methods().values() for setting in entry.settings}
    assert set(re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in table.splitlines()[2:]))) <= known


@pytest.mark.parametrize("folder", sorted(path.parent for path in (ROOT / "benchmarks/results").glob("*/*/records")))
def test_tables_of_all_methods_are_those_of_their_records(folder: Path) -> None:
    """Three seeds of each method in the page's table, in its records and in the files made of them."""
    page = INSPECT if folder.name.startswith("ablations-") else COMPARISON
    shown = re.search(rf"<!-- table {folder.name} -->\n(.*?)<!-- /table -->", page, re.S)
    assert shown is not None
    assert shown[1] == (folder / "table.md").read_text()
    rows = json.loads((folder / "table.json").read_text())["rows"]
    records = [
        json.loads((folder / "records" / f"{stem_of(row['recipe'], seed)}.json").read_text())
        for row in rows
        for seed in row["seeds"]
    ]
    assert len(records) == len(list((folder / "records").iterdir()))
    table, summarised = tabulate(records)
    assert shown[1] == table
    assert rows == summarised["rows"]


def test_tables_of_time_to_robustness_are_those_of_their_records() -> None:
    """Every record and no other, under the mark of its ladder and its machine, since seconds of two do not compare."""
    text = (ROOT / "docs" / "fast.md").read_text()
    folders = (ROOT / "benchmarks" / "results").glob("*/time-to-robustness")
    made = {f"{mark} {folder.parent.name}": table for folder in folders for mark, table in tables(folder).items()}
    assert dict(re.findall(r"<!-- table (\w+ \w+) -->\n(.*?)<!-- /table -->", text, re.S)) == made


def test_the_numbers_of_the_inspected_demo_are_those_of_its_record() -> None:
    table = INSPECT.split("<!-- inspect demo -->\n")[1].split("<!-- /inspect demo -->")[0]
    record = json.loads((ROOT / "benchmarks/results/epyc2/inspect-demo.json").read_text())
    rows = []
    for run in record["runs"]:
        falls = [float("inf") if value is None else value for value in run["falls"]]
        surface, history = run["surface"], run["history"]
        figures = [
            f"{100 * sum(value > record['epsilon'] for value in falls) / len(falls):.1f}",
            f"{median(falls):.3f}",
        ]
        figures += [f"{surface[key]:.2f}" for key in ("deviation", "missed", "ridge")]
        figures += [f"{history[-1]['linearity']:.2f}"]
        figures += [str(next((row["epoch"] for row in history if row["collapsed"]), ""))]
        rows.append(f"| {run['name']} | {' | '.join(figures)} |")
    assert table.splitlines()[2:] == rows


# -- command lines ---------------------------------------------------------------------------------------------------


def test_there_are_command_lines() -> None:
    assert {line.split()[0] for _, line in COMMANDS} >= {"train", "evaluate", "list"}


@pytest.mark.parametrize(("document", "line"), COMMANDS)
def test_command_lines_parse(document: str, line: str, guides_method: MethodEntry) -> None:
    words = [*itertools.takewhile(lambda word: word not in ("|", ">"), shlex.split(line, comments=True))]
    parser = make_parser()
    if words[-1] == "--help":
        with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as exited:
            parser.parse_args(words)
        assert exited.value.code == 0
        return
    options = parser.parse_args(words)
    if words[0] == "train":
        recipe = load_recipe(options.train.recipe, **given(options.train, Recipe))
        build_method(recipe.method, info(), recipe.method_args)
    if words[0] == "bench":
        for name in expanded(options.bench.recipes):
            load_recipe(name)


def test_shell_blocks_hold_nothing_unknown() -> None:
    """Every line is a command of ours, which another test parses, or of a kind that is named; its script exists."""
    lines = [
        line.strip() for document in DOCUMENTS for code in blocks(document, "sh", "bash") for line in code.splitlines()
    ]
    assert len(lines) > 50
    for line in filter(None, lines):
        if COMMAND.match(line):
            continue
        found = next((match for kind in SHELL if (match := re.fullmatch(kind, line))), None)
        assert found is not None, line
        if script := found.groupdict().get("script"):
            assert (ROOT / script).is_file(), line


def test_extras_that_are_named_exist() -> None:
    extras = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]\n")[1].split("\n[")[0]
    named = {
        extra
        for document in DOCUMENTS
        for group in re.findall(r"pip install \"?(?:\.|headstart)\[([\w,-]+)\]", document.read_text())
        for extra in group.split(",")
    }
    assert {"all", "vision"} <= named <= set(re.findall(r"^(\w+) = \[", extras, re.M))


# -- Python ----------------------------------------------------------------------------------------------------------


def test_every_python_block_is_run_by_a_test() -> None:
    """A new block is added to the table, with the test that runs it."""
    found = {document.name: len(blocks(document, "python")) for document in DOCUMENTS}
    assert {name: n for name, n in found.items() if n} == {name: n for name, (n, _) in PYTHON_RUN_IN.items()}
    for name, (_, test) in PYTHON_RUN_IN.items():
        assert name in (ROOT / test).read_text(), f"{test} does not read {name}"


def test_readme_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks(ROOT / "README.md", "python")[0]
    assert "epochs=10" in code
    assert 'out="runs/digits"' in code
    code = code.replace("epochs=10", "epochs=1, progress=False, device='cpu'")
    exec(code.replace('"runs/digits"', repr(str(tmp_path / "digits"))), {})
    assert 0 <= float(capsys.readouterr().out.split()[-1]) <= 1
    assert (tmp_path / "digits" / "model.safetensors").exists()


def test_readme_loop() -> None:
    code = blocks(ROOT / "README.md", "python")[1].replace("(3, 32, 32)", repr(IMAGE_SHAPE))
    x, y, _ = batches(1, size=16)[0]
    model = tiny_net(classes=CLASSES)
    before = [p.clone() for p in model.parameters()]
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    names = {"headstart": headstart, "model": model, "loader": loader, "optimizer": sgd(model)}
    exec(code, names)
    assert torch.isfinite(names["loss"])  # type: ignore[arg-type]
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_your_own_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The page's images in memory, of random pixels: they train, and are evaluated."""
    monkeypatch.chdir(tmp_path)
    code = blocks(ROOT / "docs" / "your-own.md", "python")[0]
    exec(code.replace("epochs=1", "max_steps=1, progress=False, device='cpu'"), {})
    assert 0 <= float(capsys.readouterr().out.split()[-1]) <= 1


def test_your_own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The page's network, from its file and from Python; its weights in a plain module."""
    section = (ROOT / "docs" / "your-own.md").read_text().split("\n## Your own network\n")[1]
    module, in_python, loop, examples = [code for language, code in BLOCK.findall(section) if language == "python"]
    (tmp_path / "my_net.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    command = re.search(r"^headstart (train .* my_net:build .*)$", section, re.M)
    assert command is not None
    assert main([*command[1].split(), "--max_steps", "2", "--device", "cpu"]) == 0
    exec(in_python.replace("epochs=10", "max_steps=2, progress=False, device='cpu'"), {})
    assert 0 <= float(capsys.readouterr().out.split()[-1]) <= 1
    exec(loop, {})
    names: dict[str, Any] = {}
    exec(examples, names)
    assert 0 < (names["x_adv"] - names["x"]).abs().max() <= 8 / 255 + 1e-6
    weights = load_file(re.findall(r"runs/\S+", command[1])[0] + "/model.safetensors")
    importlib.import_module("my_net").Net(10, 24).load_state_dict(weights)  # plain, without this library


def test_the_guides_method(guides_method: MethodEntry) -> None:
    """The method that the guide writes trains, and says of itself what the guide says."""
    x, y, index = batches(1)[0]
    target = Target(tiny_net())
    loss = build_method(guides_method.name, info())(target, Step(x, y, THREAT, Clock(0, 16, 0, 2, 0), index))
    loss.backward()
    passes = target.passes
    counted = f"{passes.forwards}F {passes.input_gradients}Bx {passes.backwards}B"
    assert guides_method.passes == counted
    assert guides_method.summary


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")


# -- figures ---------------------------------------------------------------------------------------------------------


def test_the_choice_of_methods_has_the_figures_of_its_records() -> None:
    """Each row of the first table is a row of the table under the heading that it links to."""
    cell = r"([\d.]+)"
    row = rf"^\| \[[^]]*\]\(#([\w-]+)\) \| `([\w-]+)` \|[^|]*\| {cell} \| {cell} \| {cell} \| (\d+) \|$"
    chosen = re.findall(row, COMPARISON, re.M)
    assert len(chosen) >= 8
    sections = {slug(part.splitlines()[0]): part for part in re.split(r"^## ", COMPARISON, flags=re.M)[1:]}
    for anchor, name, *shown in chosen:
        found = re.search(r"<!-- table ([\w-]+) -->", sections[anchor])
        assert found is not None
        table = json.loads((campaign(found[1]) / "table.json").read_text())["rows"]
        measured = next(r for r in table if r["recipe"].partition("/")[2] == name)
        clean, robust, seconds = (mean(measured[key]) for key in ("clean", "robust", "cpu_seconds"))
        expected = [f"{100 * clean:.1f}", f"{100 * robust:.1f}", f"{seconds:.0f}", str(len(measured["seeds"]))]
        assert shown == expected, (anchor, name)


def campaign(name: str) -> Path:
    """The one folder of records of this name, whatever machine it was made on."""
    (folder,) = (ROOT / "benchmarks/results").glob(f"*/{name}")
    return folder


def standing(folder: str) -> list[list[str]]:
    """Method, seeds, clean and AutoAttack accuracy and seconds of every recipe of a record, with deviations."""
    table = (campaign(folder) / "table.md").read_text()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    wanted = ["recipe", "seeds", "clean", "standard (1000 images)", "processor, s"]
    columns = [cells[0].index(name) for name in wanted]
    return [[row[i].rpartition("/")[2] for i in columns] for row in cells[2:] if len(row) == len(cells[0])]


@pytest.mark.parametrize(("name", "folder"), [("equal time", "equal-time"), ("deep", "methods-deep")])
def test_the_readme_has_the_figures_of_cifar10(name: str, folder: str) -> None:
    """Every recipe of the record."""
    text = (ROOT / "README.md").read_text()
    shown = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.S)
    assert shown is not None
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown[1].splitlines()]
    assert lines[0] == ["method", "seeds", "clean", "AutoAttack", "processor, s"]
    assert lines[2:] == standing(folder)


def test_what_autoattack_costs_is_what_was_recorded() -> None:
    text = (ROOT / "docs" / "evaluation.md").read_text()
    shown = re.search(r"<!-- evaluation -->\n(.*?)<!-- /evaluation -->", text, re.S)
    assert shown is not None
    records = [
        json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks/results").glob("*/evaluation-*.json"))
    ]
    assert shown[1] == evaluation.table(records)
    ratios = sorted(row.split("|")[7].strip() for row in shown[1].splitlines()[2:])
    assert f"AutoAttack takes {ratios[0]} to {ratios[-1]} of" in (ROOT / "README.md").read_text()
    assert all(row.endswith("| 0 |") for row in shown[1].splitlines()[2:]), "every verdict is the same, it says"


def test_the_readme_has_the_figures_of_the_demo() -> None:
    """Every method of the record, and who collapsed in how many seeds."""
    text = (ROOT / "README.md").read_text()
    record = json.loads((ROOT / "benchmarks/results/xeon2/demo_seeds.json").read_text())
    shown = re.search(r"<!-- demo -->\n(.*?)\n<!-- /demo -->", text, re.S)
    assert shown is not None
    assert shown[1] == demo_seeds.markdown(record["summary"])
    assert demo_seeds.summary(record["demos"]) == record["summary"]
    collapses = {
        name: sum(demo["collapse"][name] is not None for demo in record["demos"]) for name in record["summary"]
    }
    assert collapses == {"fgsm": 3, "fgsm-rs": 2, "fgsm-sdi": 0, "sdi-pgi": 0, "pgd-at": 0}, "as the README says"


def test_the_shares_of_time_at_16_255_are_those_of_the_record() -> None:
    rows = json.loads((campaign("methods-deep") / "table.json").read_text())["rows"]
    seconds = {row["recipe"].partition("/")[2]: mean(row["cpu_seconds"]) for row in rows}
    shares = {name: spent / seconds["pgd-at"] for name, spent in seconds.items()}
    assert f"FGSM-SDI takes {shares['fgsm-sdi']:.2f} of PGD-AT's processor time" in COMPARISON
    assert f"**FGSM-MEP takes the least of them**, {shares['fgsm-mep']:.2f}," in COMPARISON
    level = [shares[name] for name in ("fgsm-mep", "fgsm-sdi", "sdi-pgi", "sdi-liet")]
    assert f"for {min(level):.1f} to {max(level):.1f} of its time" in (ROOT / "README.md").read_text()


def test_the_hour_without_a_gpu_is_the_record_of_the_book() -> None:
    """Of the step of two hours that ``cifar10-fast/n-fgsm`` is, by a test beside the ladder."""
    paths = (ROOT / "benchmarks/results").glob("*/time-to-robustness/steps/7200-silu-mirrored-*.json")
    attacked = [made for path in paths if (made := json.loads(path.read_text()))["autoattack"] is not None]
    assert len(attacked) == 3, "else they are no longer three seeds"
    robust = cell(100 * made["autoattack"] for made in attacked)
    timed = next(made for made in attacked if made["seed"] == 0)
    assert timed["environment"]["device"] == "AMD EPYC, 2 threads"
    assert 3500 < timed["cost"]["seconds"] < 3700
    baseline = json.loads((ROOT / "benchmarks/results/epyc2/time-to-robustness/steps/7200-small-0.json").read_text())
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"keeps {robust} % of the first 1,000 test images under AutoAttack (three seeds" in text
    assert f"`cifar10-small/n-fgsm` keeps {100 * baseline['autoattack']:.1f} % after as long" in text


def test_the_readme_begins_with_the_figures_of_equal_time() -> None:
    text = (ROOT / "README.md").read_text()
    robust = {row[0]: row[3] for row in standing("equal-time")}
    said = re.findall(r"([\d.]+ ± [\d.]+) %", text[: text.index("## Two commands")])
    assert said == [robust["fgsm-sdi"], robust["pgd-at"]]


# -- links -----------------------------------------------------------------------------------------------------------

LINKS = [(d, link) for d in DOCUMENTS for link in LINK.findall(d.read_text()) if not re.match(r"\w+:", link)]


@pytest.mark.parametrize(("document", "link"), LINKS, ids=lambda value: getattr(value, "name", value))
def test_links_lead_somewhere(document: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = document.parent / path if path else document
    if target.resolve() in MADE:
        return
    assert target.exists(), f"{document.name} points to {link}"
    if anchor:
        assert anchor in map(slug, re.findall(r"^#+ (.*)$", target.read_text(), re.M))


def test_named_paths_exist() -> None:
    """The README's table of where things are."""
    table = (ROOT / "README.md").read_text().split("## Where things are")[1]
    paths = [path for row in table.splitlines() if row.startswith("| `") for path in re.findall(r"`([\w/.]+/)`", row)]
    assert len(paths) >= 6
    folders = [ROOT, ROOT / "src" / "headstart", ROOT / "benchmarks"]
    assert [path for path in paths if not any((folder / path).is_dir() for folder in folders)] == []


def test_the_glossary_names_what_exists() -> None:
    """The third column: files, and names that stand in the source."""
    table = (ROOT / "CONTRIBUTING.md").read_text().split("| word | meaning | in code |")[1].split("\n\n")[0]
    package = ROOT / "src" / "headstart"
    source = "\n".join(path.read_text() for path in package.rglob("*.py"))
    rows = [row.split("|")[1:-1] for row in table.splitlines()[2:]]
    assert len(rows) >= 30
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row[2])]
    assert [n for n in named if not ((package / n).exists() if "/" in n else re.search(rf"\b{n}\b", source))] == []


def test_the_changelog_names_modules_that_exist() -> None:
    """The right column of the table of what moved, where it gives names in full."""
    rows = re.findall(r"^  \| `.*\| (.*) \|$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert len(rows) >= 8
    for name in re.findall(r"`(headstart[\w.]+)`", " ".join(rows)):
        assert importlib.util.find_spec(name) is not None, name
