"""The site's source is the repository: a page is known by its path there, README.md first of all.

MkDocs reads one folder, docs/, whose pages link to files beside it. Here every file of docs/ gets
the path that it has in the repository, and those beside docs/ that `nav` or a page names join it:
no page is a copy, and a link that works on GitHub works in the site.
"""

import re
import sys
from importlib import import_module
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

# The next hooks import `pipeline`, which `mkdocs` itself, unlike `python -m mkdocs`, does not find;
# MkDocs takes back what a hook does to the path, but not what it has imported.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import_module("pipeline")

_LINK = re.compile(r"\]\(([^):#\s]+)(?:#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Give files of docs/ their paths in the repository, and add what is linked beside it."""
    root = Path(config.config_file_path).resolve().parent
    docs = Path(config.docs_dir).relative_to(root).as_posix()
    found = Files([])
    for file in files:
        if file.src_dir == config.docs_dir:
            # In the site docs/method.md is method.html.
            found.append(_file(root, f"{docs}/{file.src_uri}", config, file.dest_uri))
        else:
            found.append(file)
    todo = [path for path in _paths(config.nav) if found.get_file_from_path(path) is None]
    todo = [path for path in todo if (root / path).is_file()]
    for path in todo:
        found.append(_file(root, path, config))
    for page in list(found.documentation_pages()):
        for path in _linked(root, page.src_uri):
            if found.get_file_from_path(path) is None:
                found.append(_file(root, path, config))
    return found


def _file(root: Path, path: str, config: MkDocsConfig, dest_uri: str | None = None) -> File:
    return File(path, str(root), config.site_dir, config.use_directory_urls, dest_uri=dest_uri)


def _paths(nav: object) -> list[str]:
    """The paths that a `nav` names, at any depth."""
    if isinstance(nav, str):
        return [nav]
    below = nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ()
    return [path for item in below for path in _paths(item)]


def _linked(root: Path, page: str) -> list[str]:
    """The files beside docs/ that are no pages and that a page links to, as LICENSE."""
    text = (root / page).read_text(encoding="utf-8")
    paths = [(root / page).parent.joinpath(link).resolve() for link in _LINK.findall(text)]
    return [
        path.relative_to(root).as_posix()
        for path in paths
        if path.is_relative_to(root) and path.is_file() and path.suffix != ".md"
    ]
