"""What MkDocs needs to make a site of pages that also read well in a clone and on the repository's pages.

- Links to files outside of docs/ go to the repository; pictures there are copied into the site.
- The list of decisions is made of the headings of their pages.
- What follows the language in the first line of a code block (``sh ci``, ``sh needs: ...``) is for the tests.
- A page that would load something from another server is a warning, and so an error of ``mkdocs build --strict``.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).resolve().parents[1]
_PICTURES = ("Resources/Screenshots",)
_LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]*)(#[^)\s]*)?")
_FENCE = re.compile(r"^(```\w+) .+$", re.MULTILINE)
_LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"https?:|<link\b(?![^>]*canonical)[^>]*href=\"https?:"
)
_DECISIONS, _LIST = "decisions/index.md", "<!-- the list of the pages in this folder -->"
_log = logging.getLogger("mkdocs.hooks.mper")


def on_files(files: Files, config: Any) -> Files:
    """Add the pictures, under the path that they have in the repository."""
    for folder in _PICTURES:
        for picture in sorted((_ROOT / folder).iterdir()):
            name = picture.relative_to(_ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links out of docs/ at the site's pictures or the repository's files; list the decisions."""
    here = posixpath.dirname(page.file.src_uri)
    if page.file.src_uri == _DECISIONS:
        markdown = markdown.replace(_LIST, _decisions())

    def target(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", here, match[1]))
        if path == "docs" or path.startswith("docs/"):
            return match[0]
        if not (_ROOT / path).exists():
            _log.warning("%s links to %s, which is not in the repository", page.file.src_uri, path)
        if path.startswith(_PICTURES):
            return posixpath.relpath(path, here or ".")
        kind = "tree" if (_ROOT / path).is_dir() else "blob"
        return f"{config.repo_url}/{kind}/main/{path}{match[2] or ''}"

    return _FENCE.sub(r"\1", _LINK.sub(target, markdown))


def _decisions() -> str:
    pages = sorted((_ROOT / "docs" / "decisions").glob("*.md"))
    headings = {page.name: page.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for page in pages}
    return "\n".join(f"- [{heading}]({name})" for name, heading in headings.items() if name != "index.md")


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse pages that load from elsewhere."""
    if found := _LOADED.search(output):
        _log.warning("%s would load from another server: %s", page.file.src_uri, found[0])
    return output
