"""Notebooks as pages: cells and kept outputs as Markdown, pictures as files beside them."""

import posixpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

SUFFIX = ".ipynb"
# What a cell shows in several forms is shown in the first of these.
FORMS = ["text/html", "image/svg+xml", "image/png", "text/markdown", "text/plain"]


class NotebookFile(File):
    """A notebook that is a page of the site, so that links to it lead to the page."""

    def is_documentation_page(self) -> bool:
        return True


# After the files have their paths in the repository.
@event_priority(-50)
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make a page of every notebook, and files of the pictures in it."""
    for file in [file for file in files if file.src_uri.endswith(SUFFIX)]:
        page = posixpath.splitext(file.dest_uri)[0]
        files.remove(file)
        files.append(
            NotebookFile(
                file.src_uri,
                file.src_dir,
                file.dest_dir,
                file.use_directory_urls,
                dest_uri=f"{page}.html",
            )
        )
        for name, content in _converted(file)[1].items():
            folder = posixpath.dirname(file.src_uri)
            picture = File.generated(config, posixpath.join(folder, name), content=content)
            picture.dest_uri = posixpath.join(posixpath.dirname(page), name)
            files.append(picture)
    return files


def on_page_read_source(page: Page, config: MkDocsConfig) -> str | None:
    """The Markdown of a notebook's page."""
    return _converted(page.file)[0] if page.file.src_uri.endswith(SUFFIX) else None


def _converted(file: File) -> tuple[str, dict[str, Any]]:
    exporter = MarkdownExporter()
    exporter.config.NbConvertBase.display_data_priority = FORMS
    name = posixpath.splitext(file.name)[0]
    exporter = MarkdownExporter(config=exporter.config)
    body, resources = exporter.from_filename(
        file.abs_src_path, resources={"unique_key": name, "output_files_dir": f"{name}_files"}
    )
    # A picture's text is what stands above it.
    body = body.replace("![svg](", "![chart](").replace("![png](", "![picture](")
    return body, resources["outputs"]
