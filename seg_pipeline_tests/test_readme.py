"""What the README and the other documents name exists."""

import re
from functools import cache

import pytest

from seg_pipeline.cli.main import app
from seg_pipeline.settings import Settings
from seg_pipeline_tests.documents import PAGES, ROOT

FOR_USERS = "\n".join(
    PAGES[name] for name in ("README.md", "docs/http.md", "docs/terminal.md", "docs/models.md")
)
EVERYTHING = "\n".join(PAGES.values())

MADE_AT_RUN_TIME = ("data", "models", "site", ".venv", ".env")
SHELLS = ("sh", "bash", "shell", "console")
SOURCE_FILE = re.compile(r"[\w./-]+\.(?:py|md|toml|lock|ya?ml)")


def without_code_blocks(text: str) -> str:
    """The prose and the tables of a document."""
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def inline_code(text: str) -> list[str]:
    """What stands between single backticks outside code blocks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", without_code_blocks(text))


def commands(text: str) -> list[str]:
    """The commands of shell blocks, continued lines joined, prompts and comments removed."""
    blocks = re.findall(rf"```(?:{'|'.join(SHELLS)})\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [
        line.removeprefix("$ ").strip()
        for line in lines
        if line.strip() and not line.startswith("#")
    ]


def named_files(text: str) -> set[str]:
    """Paths that inline code names: those that begin with something at the top of the project, and
    source files. Files of a job (`result.json`) and what a run makes are none of them."""
    tops = {path.name for path in ROOT.iterdir()} - set(MADE_AT_RUN_TIME)
    words = {
        word
        for code in inline_code(text)
        for word in code.split()
        if not re.search(r"[{}<>*$…:]", word)
    }
    return {word for word in words if word.split("/")[0] in tops or SOURCE_FILE.fullmatch(word)}


def links(text: str) -> set[str]:
    """Where links within the project lead, with their anchors."""
    return set(re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", without_code_blocks(text)))


def anchors(text: str) -> set[str]:
    """The headings of a document as links name them."""
    headings = re.findall(r"^#+ (.+)$", without_code_blocks(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@cache
def project_files() -> tuple[str, ...]:
    """Every file of the project, with a slash before its path."""
    tops = [path for path in ROOT.glob("[a-z]*/") if path.name not in MADE_AT_RUN_TIME]
    return tuple(f"/{path.relative_to(ROOT).as_posix()}" for top in tops for path in top.rglob("*"))


def matches(pattern: str, text: str) -> list[str]:
    """What a pattern finds in commands and inline code, each once."""
    places = [*commands(text), *inline_code(text)]
    return sorted({found for place in places for found in re.findall(pattern, place)})


@pytest.mark.parametrize(
    ("document", "name"),
    [(document, name) for document, text in PAGES.items() for name in sorted(named_files(text))],
)
def test_a_file_that_is_named_exists(document: str, name: str) -> None:
    exists = (ROOT / name).exists() or any(path.endswith(f"/{name}") for path in project_files())
    assert exists, f"{document} names {name}, which does not exist"


@pytest.mark.parametrize(
    ("document", "link"),
    [(document, link) for document, text in PAGES.items() for link in sorted(links(text))],
)
def test_a_link_leads_somewhere(document: str, link: str) -> None:
    name, _, anchor = link.partition("#")
    target = (ROOT / document).parent / name if name else ROOT / document
    assert target.exists(), f"{document} links to {link}, which does not exist"
    if anchor:
        assert anchor in anchors(target.read_text(encoding="utf-8")), f"{document}: {link}"


@pytest.mark.parametrize("document", PAGES)
def test_prose_keeps_within_100_characters(document: str) -> None:
    """Tables, pictures, code, and what a program wrote between two comments are longer."""
    written = re.sub(
        r"<!-- (\w+) -->.*?<!-- /\1 -->",
        "",
        without_code_blocks(PAGES[document]),
        flags=re.DOTALL,
    )
    lines = [line for line in written.splitlines() if not line.startswith(("|", "!["))]
    assert [line for line in lines if len(line) > 100 and "](" not in line] == []


def test_the_readme_stays_within_two_screens() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 120


def test_every_decision_is_in_the_index_and_fits_a_screen() -> None:
    folder = ROOT / "docs/decisions"
    files = {path.name for path in folder.glob("[0-9]*.md")}
    assert len({name[:2] for name in files}) == len(files), "two decisions have one number"
    assert (
        links((folder / "README.md").read_text(encoding="utf-8")) - {"../architecture.md"} == files
    )
    for name in files:
        text = (folder / name).read_text(encoding="utf-8")
        assert re.match(rf"# {int(name[:2])}\. .+\n\nStatus: (accepted|replaced)", text), name
        assert anchors(text) >= {"context", "decision", "consequences"}, name
        assert len(text.splitlines()) <= 50, name


def test_the_glossary_is_in_alphabetical_order() -> None:
    glossary = PAGES["docs/glossary.md"]
    terms = re.findall(r"^\| \*\*(.+?)\*\* \|", glossary, flags=re.MULTILINE)
    assert len(terms) > 50
    assert terms == sorted(terms, key=str.lower)


@pytest.mark.parametrize(
    ("names", "path"),
    re.findall(r"((?:`[\w.]+`, )*`[\w.]+`) in `(seg_pipeline/[^`]+)`", PAGES["docs/glossary.md"]),
)
def test_what_the_glossary_names_is_where_it_says(names: str, path: str) -> None:
    files = [ROOT / path] if path.endswith(".py") else [*(ROOT / path).glob("*.py")]
    code = "".join(file.read_text(encoding="utf-8") for file in files)
    for name in re.findall(r"\w+(?=`)", names):
        assert re.search(rf"^\s*(class|def) {name}\b|^{name}\b", code, re.MULTILINE), name


@pytest.mark.parametrize("target", matches(r"(?:^|\s)make ([a-z][a-z-]*)", EVERYTHING))
def test_a_make_target_that_is_named_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize(
    "command", matches(r"(?:^|(?<!-n)\s|/)seg-pipeline ([a-z][a-z-]*)", EVERYTHING)
)
def test_a_command_that_is_named_exists(command: str) -> None:
    names = {
        each.name or each.callback.__name__ for each in app.registered_commands if each.callback
    }
    assert command in names | {each.name for each in app.registered_groups}


@pytest.mark.parametrize(
    "name", matches(r"\b([A-Z][A-Z0-9]*_[A-Z0-9_]+)\b(?=$|=|[^/.])", FOR_USERS)
)
def test_a_setting_that_is_named_exists(name: str) -> None:
    assert name.lower() in Settings.model_fields, f"{name} is no setting"
