"""A hook of mkdocs: pages that lie outside of docs/ join the site, and links to files that are no pages become plain text."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
#: Pages of the site by the file of the repository that they are made of.
JOINED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "clients/python/README.md": "python.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in JOINED.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, page, content=_linked(text, source, page)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    if page.file.src_uri in JOINED.values():
        return markdown
    return _linked(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def _linked(text: str, source: str, page: str) -> str:
    """Links of a file of the repository as links of a page of the site."""

    def one(match: re.Match[str]) -> str:
        label, target = match.groups()
        path, _, anchor = target.partition("#")
        if "://" in target or not path:
            return match.group()
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        found = JOINED.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else "")
        if not found:
            assert (ROOT / file).exists(), f"{source} links to {target}, which is not there"
            return label
        link = posixpath.relpath(found, posixpath.dirname(page) or ".")
        return f"[{label}]({link}{'#' + anchor if anchor else ''})"

    return LINK.sub(one, text)
