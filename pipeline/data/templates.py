"""Jinja2 templates over the columns of a row of data."""

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.errors import PipelineError

# What Jinja2 says of `[][0]`, and of `[] | first`.
_NO_ITEM = re.compile(r"^list object has no element|sequence was empty")


class EmptyRowError(PipelineError):
    """A row that gives no input, no target, or prints a null or an item of an empty list."""


class _NullError(Exception):
    """A template printed a null."""


def _refuse_null(value: Any) -> Any:
    if value is None:
        raise _NullError
    return value


_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, keep_trailing_newline=True, finalize=_refuse_null
)


def render(template: str, row: Mapping[str, Any], key: str) -> str:
    """A Jinja2 template over a row's columns, rendered in a sandbox.

    Raises PipelineError naming `key` for a column that the row lacks or a failing expression.
    """
    try:
        return _ENVIRONMENT.from_string(template).render(**row)
    except UndefinedError as error:
        if _NO_ITEM.search(error.message or ""):
            raise EmptyRowError(
                f"{key}: takes an item of a list that is empty in example {row.get('id', '?')} (a "
                "template may write another: {{ answers[0] if answers else 'unanswerable' }})"
            ) from error
        columns = ", ".join(str(column) for column in row)
        raise PipelineError(f"{key}: {error.message}; the data's columns are: {columns}") from error
    except _NullError as error:
        raise EmptyRowError(
            f"{key}: prints a column that is null in example {row.get('id', '?')}"
        ) from error
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PipelineError(f"{key}: cannot be rendered: {reason}") from error
    except (AttributeError, RecursionError, MemoryError) as error:
        raise PipelineError(f"{key}: cannot be rendered: {type(error).__name__}") from error
