"""What `mkdocs.yml` needs besides settings: links out of `docs/`, the name of the search, examples in docstrings."""

import re
from typing import Any

from griffe import Extension, Object


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """The text of a page in which a link such as `../params.yaml` is the address of the file in the repository."""
    return re.sub(r"\]\(\.\./([^)\s]+)\)", rf"]({config.extra['repository']}/blob/main/\1)", markdown)


def on_post_page(output: str, *, page: Any, config: Any) -> str:
    """The page with a name for its search, which screen readers need."""
    return re.sub(r'(<div class="md-search"[^>]* role="dialog")', r'\1 aria-label="Search"', output)


class Doctests(Extension):
    """Doctests of this project have no heading; with one they are shown as code."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^>>> .*?(?=\n\n|\Z)",
                lambda match: "Examples:\n" + re.sub("^", "    ", match[0], flags=re.MULTILINE),
                obj.docstring.value,
                flags=re.MULTILINE | re.DOTALL,
            )
