"""README.md and docs/: every command and every Python block runs, every link and every module named is there.

A block ``sh`` is run line by line, in the order of its page, in a folder that holds what the pages speak of
(`scan.nrrd`, `dicom-folder`, `challenge`, ...), small. A block ``sh needs: REASON`` cannot run here; its commands are
parsed instead, so that a command or an option that is gone is seen. The blocks ``sh ci`` are run by .ci/run.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from small_data import LPS, blobs
from small_series import Change, write_classic
from test_levels import ORDER

import mper
import mper.resources
from mper.cli import main, parser
from mper.io import read_volume, write_volume
from mper.methods.registry import METHODS
from mper.nets.registry import backbone_names
from mper.volume import Geometry, Volume

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS = [
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "DATA_LICENSES.md")),
    *sorted(path for folder in ("Testing", "Resources") for path in (ROOT / folder).rglob("*.md")),
]
TINY = ["--steps", "1", "--patch", "16,32,32", "--device", "cpu"]  # in place of a training's budget
SLICERS_OWN = {
    "Edit > Application Settings > Modules",
    "Additional module paths",
    "File > Download Sample Data > MPER",
}
MADE = {"segment la", "segmentation", "mper segment"}  # the button names its structure; a category and a title
BOX = ((24, 20, 36), (64, 116, 140))  # of the sample scan: most of the atrium, a fifth of the voxels


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what follows it in the first line, its text."""

    language: str
    rest: str
    text: str

    def commands(self) -> list[list[str]]:
        """The words of each command, without comments; lines that end with a backslash or && go on."""
        lines = self.text.replace("\\\n", " ").replace("&&\n", "&& ").splitlines()
        words = [shlex.split(line, comments=True) for line in lines]
        return [command for line in words for command in _split(line) if command]


def _split(words: list[str]) -> list[list[str]]:
    commands: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"^```(\w*)([^\n]*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(language, rest.strip(), text) for language, rest, text in found]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def trigger_time(time: int) -> Change:
    """What makes the images of `small_series` a phase of a cine."""
    return lambda _, image: setattr(image, "TriggerTime", time)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small data under the names that the pages use."""
    folder = tmp_path_factory.mktemp("docs") / "a folder"
    folder.mkdir()
    scan = read_volume(mper.sample_scan()).crop(*BOX)
    mask = read_volume(mper.sample_scan().with_name("la-reference.nrrd")).crop(*BOX)
    write_volume(folder / "scan.nrrd", scan)
    (folder / "sample").mkdir()
    write_volume(folder / "sample" / "la.nrrd", scan)
    write_volume(folder / "sample" / "la-reference.nrrd", mask)
    write_classic(folder / "dicom-folder", scan.with_array(scan.array.astype(np.int16)))
    slices = scan.crop((10, 0, 0), (14, 96, 104))
    uid = None
    for time in (0, 400):
        phase = slices.with_array(slices.array.astype(np.int16) + time // 40)
        uid = write_classic(folder / "cine-folder", phase, trigger_time(time), uid, f"T{time}")
    for name in ("scans/first.nii.gz", "scans/second.nii.gz", "more-scans/third.nrrd"):
        (folder / name).parent.mkdir(exist_ok=True)
        write_volume(folder / name, scan)
    grid = Geometry.from_axes((0, 0, 0), (2.0, 2.0, 2.0), LPS, (16, 24, 24))
    for n, case in enumerate([*(f"challenge/case-{n:02}" for n in range(1, 10)), "test-scans/case-10"]):
        image, label = blobs(grid.shape, n)
        (folder / case).mkdir(parents=True)
        write_volume(folder / case / "lgemri.nrrd", Volume(image, grid))
        write_volume(folder / case / "laendo.nrrd", Volume(label, grid))
        if n == 0:
            write_volume(
                folder / "slices.nrrd", Volume(label * (np.arange(16) > 8)[:, None, None].astype(np.uint8), grid)
            )
    strokes = {"strokes": [{"label": "LA", "points_mm": [[22.0, 22.0, 16.0]], "radius_mm": 3.0}]}
    (folder / "strokes.json").write_text(json.dumps(strokes), encoding="utf-8")
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page's own copy of the folder, which is the working directory; the sample scan is small."""
    copy = tmp_path / "a folder"
    shutil.copytree(prepared, copy)
    monkeypatch.chdir(copy)
    monkeypatch.setattr(mper.resources, "sample_scan", lambda: copy / "sample" / "la.nrrd")
    return copy


def with_commands(needs: bool) -> list[Path]:
    return [
        page
        for page in PAGES
        if any(
            block.language == "sh" and block.rest.startswith("needs:") == needs and block.rest != "ci"
            for block in blocks(page)
        )
    ]


@pytest.mark.parametrize("page", with_commands(needs=False), ids=name_of)
def test_every_command_of_the_page_runs(page: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(page):
        if block.language == "json":
            (place / "strokes.json").write_text(block.text, encoding="utf-8")
    for block in blocks(page):
        if block.language != "sh" or block.rest:
            continue
        for command in block.commands():
            assert command[0] == "mper", (
                f"{command}: say in the block's first line what it needs, as in ```sh needs: ..."
            )
            assert main(_small(command[1:])) == 0, f"{command}: {capsys.readouterr().err}"


def _small(words: list[str]) -> list[str]:
    """The words with the budget of a training replaced by a step."""
    if "--budget" not in words:
        return words
    at = words.index("--budget")
    return [*words[:at], *words[at + 2 :], *TINY]


@pytest.mark.parametrize("page", with_commands(needs=True), ids=name_of)
def test_commands_that_cannot_run_here_have_options_that_there_are(page: Path) -> None:
    for block in blocks(page):
        if block.language != "sh" or not block.rest.startswith("needs:"):
            continue
        assert len(block.rest) > len("needs: "), f"{page}: say what {block.text!r} needs"
        for command in block.commands():
            if "mper" in command and ("-m" in command or command[0] == "mper"):
                arguments = parser().parse_args(command[command.index("mper") + 1 :])
                assert arguments.run


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language == "python" for b in blocks(page))], ids=name_of
)
def test_python_of_the_page_runs(page: Path, place: Path) -> None:
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text, name_of(page), "exec"), names)


def test_the_two_commands_of_the_readme_are_those_that_ci_runs() -> None:
    marked = [
        block.text.splitlines() for block in blocks(ROOT / "README.md") if (block.language, block.rest) == ("sh", "ci")
    ]
    assert [len(lines) for lines in marked] == [1, 1]
    assert [line for lines in marked for line in lines] == [
        "pip install -e . && mper demo",
        "pip install -e '.[test]' && pytest -n 2 --dist loadfile",
    ]


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name_of)
def test_links_lead_to_files_and_headings_that_there_are(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)} links to {target}"
        if heading:
            assert heading in headings(file), f"{name_of(page)} links to {target}; there are {sorted(headings(file))}"


def headings(page: Path) -> set[str]:
    """The anchors that GitHub and MkDocs make of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "Testing" / "README.md"], ids=name_of)
def test_files_and_names_of_the_code_that_a_page_mentions_are_there(page: Path) -> None:
    for code in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")):
        if re.fullmatch(r"(mper|MPERSegment|MPERTrainer|Testing|Resources|docs)/[\w./-]*", code):
            assert (ROOT / code).exists(), f"{name_of(page)} names {code}"
        elif re.fullmatch(r"mper(\.\w+)+", code):
            assert _resolves(code), f"{name_of(page)} names {code}"


def _resolves(name: str) -> bool:
    module, rest = name, list[str]()
    while module:
        try:
            found: Any = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            rest.insert(0, last)
    for part in rest:
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def test_the_page_on_training_lists_every_method_and_backbone() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    listed = {
        name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`([\w-]+)`", row)
    }
    assert {*METHODS, *backbone_names()} <= listed


def test_fields_and_buttons_that_the_pages_name_are_in_the_modules() -> None:
    files = [path for module in ("MPERSegment", "MPERTrainer") for path in (ROOT / module).rglob("*")]
    texts = [path.read_text(encoding="utf-8") for path in files if path.suffix in (".ui", ".py")]
    shown = [text for each in texts for text in re.findall(r"<string>([^<]*)</string>|_\(\"([^\"]*)\"\)", each)]
    known = {part.rstrip(":…").casefold() for pair in shown for part in pair} | MADE
    missing = []
    for name in (
        "README.md",
        "docs/installation.md",
        "docs/segment.md",
        "docs/measure.md",
        "docs/trainer.md",
        "docs/engine.md",
    ):
        page = re.sub(r"\*\*[^*]+\*\*", "", (ROOT / name).read_text(encoding="utf-8"))
        for term in re.findall(r"(?<![\w*])\*([^*\n]+(?:\n +)?[^*\n]*)\*", page):
            whole = " ".join(term.split())
            parts = [] if whole in SLICERS_OWN else whole.split(" > ")
            missing += [(name, part) for part in parts if part.rstrip("…").casefold() not in known]
    assert not missing, "no panel shows these"


@pytest.mark.parametrize(
    ("page", "ui", "last"),
    [
        ("segment.md", "MPERSegment/Resources/UI/MPERSegment.ui", "Engine"),
        ("trainer.md", "MPERTrainer/Resources/UI/MPERTrainer.ui", "Cohort"),
    ],
)
def test_the_pages_on_the_modules_follow_the_order_of_their_panels(page: str, ui: str, last: str) -> None:
    widgets = ElementTree.parse(ROOT / ui).getroot().iter("widget")
    sections = [each for each in widgets if each.get("class") == "ctkCollapsibleButton"]
    panels = [each.findtext("property[@name='text']/string") for each in sections]
    panels.insert(panels.index(last) if last in panels else len(panels), "Cohort")  # of both, from a .ui of its own
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == panels


def test_the_page_on_terms_names_every_model_that_comes_with_the_program() -> None:
    text = (ROOT / "DATA_LICENSES.md").read_text(encoding="utf-8")
    models = [path.parent.name for path in (ROOT / "Resources" / "Models").rglob("weights.safetensors")]
    assert models and all(f"`Resources/Models/{name}`" in text for name in models)


def test_each_trip_of_the_architecture_names_a_module_once() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    trips = text.partition("## Four trips")[2].partition("\n## ")[0].split("\n### ")[1:]
    assert len(trips) == 4
    named = [code for trip in trips for code in re.findall(r"`((?:mper|MPERSegment)/[^`]+)`", trip)]
    assert not {code for code in named if named.count(code) > 1}


def test_the_drawing_of_the_floors_is_that_of_the_level_test() -> None:
    draw = _load(ROOT / "docs" / "draw_floors.py")
    drawing = ElementTree.fromstring((ROOT / "docs" / "floors.svg").read_text(encoding="utf-8"))
    svg = "{http://www.w3.org/2000/svg}"
    drawn = {
        group.get("id"): " ".join(text.text or "" for text in group.iter(f"{svg}text") if text.get("class") == "name")
        for group in drawing.iter(f"{svg}g")
    }
    for floor, names in draw.boxes(ORDER).items():
        assert drawn[f"floor-{floor}"] == " ".join(names), "run `python docs/draw_floors.py`"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
