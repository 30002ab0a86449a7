"""How results show themselves in a notebook: their facts in one table, then each of their tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from html import escape
from itertools import islice
from numbers import Integral, Number, Real
from typing import ClassVar

__all__ = ["ROWS_SHOWN", "InNotebooks"]

ROWS_SHOWN = 20


class InNotebooks:
    """A result of a verb, a dataclass whose fields a notebook shows as tables.

    Attributes
    ----------
    in_notebooks : tuple of str
        The fields to show, in order; default all. Those that are empty are left out.
    """

    in_notebooks: ClassVar[tuple[str, ...]] = ()

    def _repr_html_(self) -> str:
        names = self.in_notebooks or tuple(field.name for field in fields(self))  # type: ignore[arg-type]
        values = [(name.replace("_", " "), getattr(self, name)) for name in names]
        facts = {name: value for name, value in values if isinstance(value, str | Number)}
        return "".join(
            [_title(type(self).__name__), *([_facts(facts)] if facts else []), *_tables(values, facts)]
        )


def _tables(values: Sequence[tuple[str, object]], facts: Mapping[str, object]) -> Iterator[str]:
    """What is more than a fact, each below its name."""
    for name, value in values:
        if name not in facts and (html := _html(value)):
            yield _title(name) + html


def _html(value: object) -> str:
    """A table, a mapping, a list or another result as HTML; empty for what says nothing."""
    import pandas as pd  # here, since modules with a result need not wait for it

    if isinstance(value, InNotebooks):
        return value._repr_html_()
    if isinstance(value, pd.DataFrame):
        return value.to_html(border=0, max_rows=ROWS_SHOWN) if len(value) else ""
    if isinstance(value, Mapping) and value:
        ordered = value.most_common() if isinstance(value, Counter) else value.items()
        if any(isinstance(inner, Mapping) for inner in value.values()):
            # Of counts: what is not there was counted never.
            return _html(pd.DataFrame(dict(ordered)).fillna(0).convert_dtypes())
        shown = dict(islice(ordered, ROWS_SHOWN))
        return _facts(shown) + _more(len(value))
    if isinstance(value, list | tuple) and value:
        return _lines(value) + _more(len(value))
    return ""


def _more(count: int) -> str:
    return f"<p>and {count - ROWS_SHOWN:,} more</p>" if count > ROWS_SHOWN else ""


def _lines(values: Sequence[object]) -> str:
    return f"<pre>{'<br>'.join(escape(str(line)) for line in values[:ROWS_SHOWN])}</pre>"


def _facts(facts: Mapping[str, object]) -> str:
    """A table of two columns; a list in it is shown as one."""
    rows = "".join(
        f"<tr><th>{escape(str(name))}</th><td>"
        f"{_html(value) if isinstance(value, list | tuple) else escape(_text(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f'<table class="dataframe"><tbody>{rows}</tbody></table>'


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    return f"{float(value):.4g}" if isinstance(value, Real) else str(value)


def _title(words: str) -> str:
    return f"<p><strong>{escape(words)}</strong></p>"
