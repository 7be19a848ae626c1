"""Jinja2 templates over the columns of a row of data."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, wraps
from typing import Any

from jinja2 import (
    StrictUndefined,
    Template,
    TemplateError,
    TemplateSyntaxError,
    Undefined,
    UndefinedError,
    nodes,
    pass_eval_context,
)
from jinja2.filters import do_join, make_attrgetter
from jinja2.runtime import LoopContext, TemplateReference
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.errors import PipelineError

# What Jinja2 says of `[][0]`, and of `[] | first`.
_NO_ITEM = re.compile(r"^list object has no element|sequence was empty")
# What Jinja2 and Python say of a part, an item or the length of None.
_OF_NULL = re.compile(r"^'?None'? has no|'NoneType'")
# Filters that print what they are given, in one form or another.
_PRINTING = (
    *("capitalize", "center", "e", "escape", "forceescape", "format", "indent", "lower", "replace"),
    *("safe", "string", "striptags", "title", "trim", "truncate", "upper", "urlencode", "urlize"),
    *("wordcount", "wordwrap"),
)
ALL_COLUMNS = "row"
"""The name by which a template reaches every column: `row['Review Text']`."""


class EmptyRowError(PipelineError):
    """A row that gives no input, no target, or prints a null or an item of an empty list."""


def no_column(key: str, column: str, row: Mapping[str, Any]) -> PipelineError:
    """The error to raise for a setting that names a column which the data lack."""
    columns = ", ".join(map(str, row))
    return PipelineError(f"{key}: '{column}' is no column; the data's columns are: {columns}")


class _NullError(Exception):
    """A template printed a null."""


class _Row(dict[str, Any]):
    """All columns by name. It is no text, and where a column is called `row` no list either."""

    def __str__(self) -> str:
        raise TypeError("`row` holds all columns; print one of them, row['its name']")

    def __iter__(self) -> Iterator[str]:
        self._refuse_as_column()
        return super().__iter__()

    def __len__(self) -> int:
        self._refuse_as_column()
        return super().__len__()

    def _refuse_as_column(self) -> None:
        if ALL_COLUMNS in self:
            raise TypeError("`row` holds all columns; the column of that name is row['row']")


class _Missing(StrictUndefined):
    """What is no column."""

    @property
    def _undefined_message(self) -> str:
        if isinstance(self._undefined_obj, _Row):
            return f"{self._undefined_name!r} is no column"
        return str(super()._undefined_message)


def _refuse(value: Any) -> Any:
    """Let through what a column holds and what is made of it, but no null and no code."""
    if value is None:
        raise _NullError
    is_code = callable(value) or isinstance(value, LoopContext | TemplateReference)
    if is_code and not isinstance(value, Undefined):
        raise TypeError(
            f"it prints what is no value of a column ({type(value).__name__}); a column that has "
            "the name of a part of Jinja2's is row['its name'], and a key column['its name']"
        )
    return value


def _refusing(printing: Callable[..., Any]) -> Callable[..., Any]:
    first = int(hasattr(printing, "jinja_pass_arg"))

    @wraps(printing)
    def checked(*args: Any, **kwargs: Any) -> Any:
        _refuse(args[first])
        return printing(*args, **kwargs)

    return checked


@pass_eval_context
def _join(context: Any, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    items = _refuse(value)
    if attribute is not None:
        items = map(make_attrgetter(context.environment, attribute), items)
    return do_join(context, [_refuse(item) for item in items], d)


_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=_Missing, keep_trailing_newline=True, finalize=_refuse
)
_ENVIRONMENT.filters |= {name: _refusing(_ENVIRONMENT.filters[name]) for name in _PRINTING}
_ENVIRONMENT.filters |= {"join": _join, "printed": _refuse}


def render(template: str, row: Mapping[str, Any], key: str) -> str:
    """A Jinja2 template over a row's columns, rendered in a sandbox.

    A column is a variable of its name, and `row['its name']` whatever that is. Raises PipelineError
    naming `key` for a column that the row lacks or a failing expression, and EmptyRowError for a
    null that is printed.
    """
    try:
        compiled, names = _compiled(template)
        if "self" in names and "self" in row:
            raise TypeError("`self` is Jinja2's own; the column is row['self']")
        return compiled.render({**row, ALL_COLUMNS: _Row(row)})
    except UndefinedError as error:
        if _NO_ITEM.search(error.message or ""):
            raise EmptyRowError(
                f"{key}: takes an item of a list that is empty in example {row.get('id', '?')} (a "
                "template may write another: {{ answers[0] if answers else 'unanswerable' }})"
            ) from error
        if _OF_NULL.search(error.message or ""):
            raise _null(key, row) from error
        columns = ", ".join(str(column) for column in row)
        raise PipelineError(f"{key}: {error.message}; the data's columns are: {columns}") from error
    except TemplateSyntaxError as error:
        raise PipelineError(
            f"{key}: is no valid Jinja2 template: {error.message}; a column whose name is no word, "
            "or a word of Jinja2's, is row['its name']"
        ) from error
    except _NullError as error:
        raise _null(key, row) from error
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if _OF_NULL.search(reason):
            raise _null(key, row) from error
        raise PipelineError(f"{key}: cannot be rendered: {reason}") from error
    except (AttributeError, RecursionError, MemoryError) as error:
        raise PipelineError(f"{key}: cannot be rendered: {type(error).__name__}") from error


def _null(key: str, row: Mapping[str, Any]) -> EmptyRowError:
    return EmptyRowError(f"{key}: prints a column that is null in example {row.get('id', '?')}")


@lru_cache(maxsize=64)
def _compiled(template: str) -> tuple[Template, frozenset[str]]:
    """The template, which every row shares, and the names in it."""
    tree = _ENVIRONMENT.parse(template)
    names = {name.name for name in tree.find_all(nodes.Name)}
    for joined in tree.find_all(nodes.Concat):
        # `~` makes a text of anything by itself.
        joined.nodes = [
            nodes.Filter(part, "printed", [], [], None, None, lineno=part.lineno)
            for part in joined.nodes
        ]
    tree.set_environment(_ENVIRONMENT)
    return _ENVIRONMENT.from_string(tree), frozenset(names)
