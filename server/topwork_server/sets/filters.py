"""SQL filters over a set's metadata, made safe before Lance sees them.

Lance's parser is lenient and its planner recursive: it ignores what follows a whole expression (`year > 3 label = 'x'`), a chain
of a thousand operators ends the process (seen with lance 14.0.2: the stack overflows from about 1,000 links), and a `repeat()`
may ask for all memory. So a filter is read here first, token by token: only known functions, no comments, no parameters, no
deep expressions; what it means is Lance's business.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.sets.lance_io import plain, translated
from topwork_server.sets.model import ColumnType
from topwork_server.sets.names import is_reserved

MOST_CHARACTERS = 256 << 10

# Tokens of one expression, its enclosing ones included: `a + b > 3` has five. AND, OR and commas begin a new one.
MOST_TOKENS = 200

#: What a filter may call. None of them makes much out of little.
FUNCTIONS = frozenset(
    "abs array_contains array_has array_has_all array_has_any array_length btrim cardinality cast ceil char_length coalesce "
    "contains date_part date_trunc ends_with exp floor length ln log10 log2 lower ltrim now nullif octet_length position "
    "power regexp_like regexp_match round rtrim sqrt starts_with strpos substr substring to_date to_timestamp "
    "to_timestamp_micros to_timestamp_millis to_timestamp_seconds trim trunc try_cast upper extract".split()
)
# Words that a parenthesis may follow though they are no functions.
_BEFORE_PARENTHESIS = frozenset("and or not in like ilike between is any all when then decimal varchar timestamp".split())

_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<string>'(?:[^']|'')*'|"(?:[^"]|"")*")|(?P<quoted>`[^`]*`)
      |(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)|(?P<word>[A-Za-z_]\w*)|(?P<mark>\|\||::|<=|>=|<>|!=|[-+*/%=<>(),.\[\]])""",
    re.VERBOSE,
)


def check(where: str, columns: Mapping[str, ColumnType]) -> None:
    """Refuse, naming what was wrong, a filter that Lance should not see. `columns` are the set's metadata."""
    if len(where) > MOST_CHARACTERS:
        raise InvalidInput(f"a filter of {len(where)} characters", remedy=f"at most {MOST_CHARACTERS}; select by ids instead")
    if not where.strip():
        raise InvalidInput("an empty filter", remedy="leave it out to have all items")
    tokens = list(_tokens(where))
    _check_depth(tokens)
    for (kind, text), (_, following) in zip(tokens, [*tokens[1:], ("", "")], strict=True):
        if kind == "word" and following == "(":
            _check_function(text.lower())
        elif kind == "word" and text.lower() == "case":
            raise InvalidInput("CASE is not for filters", remedy="use AND and OR")
        elif kind in ("word", "quoted") and is_reserved(text.strip("`")) and text.lower() != "id":
            raise InvalidInput(f"the column {text.strip('`')!r} is not for filters", remedy=f"use {_names(columns)}")


def _tokens(where: str) -> Iterator[tuple[str, str]]:
    position, before = 0, ""
    while position < len(where):
        match = _TOKEN.match(where, position)
        if match is None:
            raise InvalidInput(
                f"the filter is not understood at {where[position : position + 20]!r}", remedy=_remedy(where[position])
            )
        kind, text = str(match.lastgroup), match.group()
        if kind == "string" and before == "word":
            raise InvalidInput(f"a word and a string without a space: {text[:20]!r}", remedy="put a space between them")
        if text in "-/*" and where.startswith(("--", "/*"), position):
            raise InvalidInput("a comment in a filter", remedy="take it out; write `- -1` for a double minus")
        if kind != "space":
            yield kind, text
        position, before = match.end(), kind


def _remedy(character: str) -> str:
    if character == ";":
        return "one expression, without ';'"
    if character in "'\"`":
        return "close the quotes; double a quote inside of them"
    return f"the character {character!r} stands in quotes only"


def _check_depth(tokens: list[tuple[str, str]]) -> None:
    """Bound how deep Lance's planner will go: it walks a chain of operators by recursion."""
    chain, between = [0], [0]
    for kind, text in tokens:
        word = text.lower() if kind == "word" else text if kind == "mark" else ""
        chain[-1] += 1
        if word in ("(", "["):
            chain.append(0)
            between.append(0)
        elif word in (")", "]"):
            if len(chain) == 1:
                raise InvalidInput(f"the filter closes a {text!r} that it did not open", remedy="balance the parentheses")
            chain.pop()
            between.pop()
        elif word == "between":
            between[-1] += 1
        elif word == "and" and between[-1]:
            between[-1] -= 1
        elif word in ("and", "or", ","):
            chain[-1] = 0
        if sum(chain) > MOST_TOKENS:
            raise InvalidInput(
                "an expression of the filter is too long or too deep", remedy=f"at most {MOST_TOKENS} words in one"
            )
    if len(chain) > 1:
        raise InvalidInput("the filter opens a parenthesis and does not close it", remedy="balance the parentheses")


def _check_function(name: str) -> None:
    if name in FUNCTIONS or name in _BEFORE_PARENTHESIS:
        return
    near = difflib.get_close_matches(name, FUNCTIONS, 3)
    raise InvalidInput(
        f"filters have no function {name!r}", remedy=f"near it are {', '.join(near)}" if near else f"there are {_list(FUNCTIONS)}"
    )


def refused(error: BaseException, where: str, columns: Mapping[str, ColumnType]) -> TopworkError:
    """What Lance said against a filter, in our words. Errors that have nothing to do with the filter are mapped as such."""
    text = plain(error)
    missing = re.search(r"No field named \"?([^\".]+?)\"?\.", text)
    if missing:
        return InvalidInput(f"the filter names a column {missing[1]!r}, which the set has not", remedy=f"use {_names(columns)}")
    ours = translated(error, f"filter {where:.200}")
    # Only ValueError and its kin (Arrow's and Lance's refusals of an expression) are the caller's to mend.
    return InvalidInput(f"filter {where:.200}: {text:.500}", remedy=_hint(text)) if _is_refusal(error, ours) else ours


def _is_refusal(error: BaseException, ours: TopworkError) -> bool:
    of_ours = isinstance(error, ValueError | NotImplementedError | RuntimeError) or "filter expression" in str(error)
    return of_ours and type(ours) is TopworkError


def _hint(text: str) -> str:
    if "convert to literal" in text or "Cannot coerce" in text or "Cast error" in text:
        return "compare a column with a value of its type; texts stand in '...', times are timestamp '2024-01-31 12:00:00'"
    if "does not return a boolean" in text:
        return "a filter is true or false: compare the column with something"
    return "column names that are SQL words stand in `...`, texts in '...'"


def _names(columns: Mapping[str, Any]) -> str:
    return _list(["id", *columns])


def _list(names: Any) -> str:
    shown = sorted(names)[:40]
    return ", ".join(shown) + (" ..." if len(names) > 40 else "")
