"""MkDocs' hooks: the reference and the decisions join the pages, and so does whatever of the
repository the pages link to."""

import re
import sys
from collections.abc import Iterator
from os.path import normpath, relpath
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # MkDocs loads this file by its path

OUTSIDE = "repository/"
"""Where the site has the files of the repository that are not below docs/."""

LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)")
CODE_BLOCK = re.compile(r"(^```.*?^```)", flags=re.DOTALL | re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation ends with the decisions, in the order of their numbers."""
    files = sorted(path.name for path in (ROOT / "docs/decisions").glob("[0-9]*.md"))
    pages = ["README.md", *files]
    config.nav = [*(config.nav or []), {"Decisions": [f"decisions/{name}" for name in pages]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are no files below docs/."""
    from scripts.docs_reference import PAGES

    for uri, text_of in PAGES.items():
        files.append(File.generated(config, uri, content=text_of()))
    for path in linked_files(*(f"docs/{each.src_uri}" for each in files)):
        files.append(File.generated(config, uri_of(path), content=page_of(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links lead to where the site has their files."""
    uri = page.file.src_uri
    source = uri.removeprefix(OUTSIDE) if uri.startswith(OUTSIDE) else f"docs/{uri}"
    return with_links_of_site(markdown, source) if (ROOT / source).is_file() else markdown


def linked_files(*sources: str) -> list[str]:
    """The files outside docs/ that documents link to, and those that these link to, sorted."""
    found: set[str] = set()
    waiting = [*sources]
    while waiting:
        new = {each for each in targets_of(waiting.pop()) if is_outside(each)} - found
        found |= new
        waiting.extend(new)
    return sorted(found)


def is_outside(path: str) -> bool:
    """Whether a file lies outside docs/. Of one that does not exist MkDocs warns."""
    return not path.startswith("docs/") and (ROOT / path).is_file()


def targets_of(source: str) -> Iterator[str]:
    """The files to which a document of the repository links, by their paths there."""
    path = ROOT / source
    if path.suffix == ".md" and path.is_file():
        for part in CODE_BLOCK.split(path.read_text(encoding="utf-8"))[::2]:
            yield from (target_of(source, link) for link in LINK.findall(part))


def target_of(source: str, link: str) -> str:
    """The path in the repository to which a link in `source` leads."""
    return PurePosixPath(normpath(PurePosixPath(source).parent / link)).as_posix()


def uri_of(path: str) -> str:
    """Where the site has a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{OUTSIDE}{path}" if path.endswith(".md") else f"{OUTSIDE}{path}.md"


def page_of(path: str) -> str:
    """A document as it is, and code as a block below its path."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    return f"# {path}\n\n````{PurePosixPath(path).suffix.removeprefix('.')}\n{text}````\n"


def with_links_of_site(markdown: str, source: str) -> str:
    """The text of `source` with its links as the site has them; code blocks stay as they are."""
    here = PurePosixPath(uri_of(source)).parent

    def mended(link: re.Match[str]) -> str:
        return relpath(uri_of(target_of(source, link.group())), here)

    parts = CODE_BLOCK.split(markdown)
    parts[::2] = [LINK.sub(mended, part) for part in parts[::2]]
    return "".join(parts)
