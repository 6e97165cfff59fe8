"""The syntax of filters: text to tokens to a tree, in standard SQL. `a`, "a" and `a` in backticks are columns, 'a' is a text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from topwork_server.errors import InvalidInput

# Tokens of one expression, its enclosing ones included: `a + b > 3` has five. AND, OR and commas begin a new one.
MOST_TOKENS = 200

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>'(?:[^']|'')*')|(?P<quoted>`[^`]+`|"(?:[^"]|"")+")
      |(?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)
      |(?P<word>(?:[^\W\d]|[^\x00-\x7f\s\d])(?:\w|[^\x00-\x7f\s])*)
      |(?P<comment>--|/\*)|(?P<mark>\|\||::|<=|>=|<>|!=|==|[-+*/%=<>(),.\[\]]))""",
    re.VERBOSE,
)
_COMPARISONS = {"=": "=", "==": "=", "<>": "<>", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
#: How strongly each operator binds, as in PostgreSQL.
OR, AND, NOT, IS, COMPARE, AMONG, CONCAT, ADD, MULTIPLY, NEGATE, ATOM = range(1, 12)
_POWERS = {
    "or": OR,
    "and": AND,
    "is": IS,
    **dict.fromkeys(_COMPARISONS, COMPARE),
    **dict.fromkeys(("in", "between", "like", "ilike", "not"), AMONG),
    "||": CONCAT,
    **dict.fromkeys("+-", ADD),
    **dict.fromkeys("*/%", MULTIPLY),
    **dict.fromkeys(("::", "["), ATOM),
}
#: Words that begin no operand.
_RESERVED = frozenset("and or in is between like ilike from as then end when".split())


@dataclass(frozen=True, slots=True)
class FilterNode:
    """`kind` is one of number, string, bool, null, column, list, call, cast, try_cast, index, interval, neg, not, and, or,
    compare, arithmetic, concat, in, between, like, is and (written as a bare word before a text) date and timestamp; `value` is
    its literal, name, operator or type."""

    kind: str
    args: tuple[FilterNode, ...] = ()
    value: Any = None
    negated: bool = False


def parse(where: str) -> FilterNode:
    """The tree of a filter. InvalidInput names what is not understood, and what was expected."""
    tokens = list(_tokens(where))
    _check_depth(tokens)
    return _Parser(tokens).parse_filter()


def _tokens(where: str) -> Iterator[tuple[str, str]]:
    where = where.rstrip()
    position, before = 0, ""
    for match in _TOKEN.finditer(where):
        kind = match.lastgroup or ""
        if match.start() != position:
            break
        if kind in ("string", "quoted") and before == "word" and match.start(kind) == position:
            raise InvalidInput(
                f"a word and a quoted one without a space: {match[kind][:20]!r}", remedy="put a space between them"
            )
        if kind == "comment":
            raise InvalidInput("a comment in a filter", remedy="take it out; write `- -1` for a double minus")
        yield kind, match[kind]
        position, before = match.end(), kind
    if position != len(where):
        rest = where[position:].lstrip()
        raise InvalidInput(f"the filter is not understood at {rest[:20]!r}", remedy=_remedy(rest[0]))


def _remedy(character: str) -> str:
    if character == ";":
        return "one expression, without ';'"
    if character in "'\"`":
        return "close the quotes; double a quote inside of them"
    if character.isdecimal():
        return "write numbers with the digits 0 to 9; other digits stand in quotes only"
    return f"the character {character!r} stands in quotes only"


def _check_depth(tokens: list[tuple[str, str]]) -> None:
    """Bound how deep parser and planner will go: they walk a chain of operators by recursion."""
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


class _Parser:
    """A parser by precedence climbing: few frames a level, so that MOST_TOKENS bounds the depth of Python's stack too."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens, self._at = [*tokens, ("end", "")], 0

    def parse_filter(self) -> FilterNode:
        node = self.expression(0)
        if self._tokens[self._at][0] != "end":
            raise self._expected("AND, OR, or the end of the filter")
        return node

    def expression(self, power: int) -> FilterNode:
        """An operand and all operators behind it that bind more strongly than `power`."""
        node = self._operand()
        while (found := _POWERS.get(self._word, 0)) > power:
            node = self._infix(node, found)
        return node

    @property
    def _word(self) -> str:
        """The next token, if it is a word (in lower case) or a mark; else "" """
        kind, text = self._tokens[self._at]
        return text.lower() if kind == "word" else text if kind == "mark" else ""

    def _next(self) -> tuple[str, str]:
        self._at += 1
        return self._tokens[self._at - 1]

    def _accept(self, *words: str) -> str:
        """The next word, where it is one of these; else "", and it stays."""
        if self._word in words and self._word:
            return self._next()[1].lower()
        return ""

    def _require(self, word: str) -> None:
        if not self._accept(word):
            raise self._expected(word.upper())

    def _expected(self, what: str) -> InvalidInput:
        rest = " ".join(text for _, text in self._tokens[self._at : self._at + 6]).strip()[:60]
        before = " ".join(text for _, text in self._tokens[max(0, self._at - 4) : self._at])[-60:]
        where = f"at {rest!r}" if rest else f"at its end, behind {before!r}"
        return InvalidInput(f"the filter is not understood {where}", remedy=f"expected {what}")

    def _operand(self) -> FilterNode:
        word = self._word
        if word == "(":
            return self._in_parentheses()
        if word == "[":
            self._next()
            return FilterNode("list", self._list("]"))
        if word == "not":
            self._next()
            return FilterNode("not", (self.expression(NOT),))
        if word in ("+", "-"):
            self._next()
            operand = self.expression(NEGATE)
            return FilterNode("neg", (operand,)) if word == "-" else operand
        return self._atom()

    def _in_parentheses(self) -> FilterNode:
        self._require("(")
        node = self.expression(0)
        if self._word == ",":
            raise self._expected("one value; rows of several do not compare")
        self._require(")")
        return node

    def _atom(self) -> FilterNode:
        kind, text = self._tokens[self._at]
        if kind in ("mark", "end") or (kind == "word" and text.lower() in _RESERVED):
            raise self._expected("an expression")
        self._next()
        if kind == "string":
            return FilterNode("string", value=text[1:-1].replace("''", "'"))
        if kind == "number":
            return FilterNode("number", value=int(text) if text.isdigit() and len(text) < 400 else Decimal(text))
        if kind == "quoted":
            return self._column(text[1:-1].replace('""', '"') if text[0] == '"' else text[1:-1])
        return self._word_operand(text)

    def _word_operand(self, text: str) -> FilterNode:
        """A word: a constant, a function, a typed text, or a column."""
        word, (kind, following) = text.lower(), self._tokens[self._at]
        if following == "(":
            return self._call(word)
        if word in ("true", "false"):
            return FilterNode("bool", value=word == "true")
        if word == "null":
            return FilterNode("null")
        if word == "case":
            raise InvalidInput("CASE is not for filters", remedy="use AND and OR")
        if word in ("date", "timestamp", "interval") and kind == "string":
            return self._typed_literal(word, self._next()[1][1:-1])
        if word == "interval" and kind == "number":
            return self._typed_literal(word, self._next()[1])
        return self._column(text)

    def _typed_literal(self, word: str, text: str) -> FilterNode:
        """Parse a literal with a type: `interval '7' day` has its unit behind the text."""
        if word == "interval" and self._tokens[self._at][0] == "word" and text.strip().lstrip("-").isdigit():
            text = f"{text} {self._next()[1]}"
        return FilterNode(word, value=text)

    def _column(self, name: str) -> FilterNode:
        return FilterNode("column", value=name)

    def _call(self, name: str) -> FilterNode:
        self._require("(")
        if name in ("cast", "try_cast"):
            return self._cast(name)
        if name == "extract":
            part = self._next()[1].strip("'")
            self._require("from")
            args: tuple[FilterNode, ...] = (FilterNode("string", value=part), self.expression(0))
            self._require(")")
            return FilterNode("call", args, "date_part")
        if self._accept(")"):
            return FilterNode("call", (), name)
        first = self.expression(AMONG if name == "position" else 0)
        if name == "position" and self._accept("in"):
            args = (self.expression(0), first)
            self._require(")")
            return FilterNode("call", args, "strpos")
        if name in ("substr", "substring") and self._accept("from"):
            return self._substring(first)
        return FilterNode("call", (first, *self._list(")", begun=True)), name)

    def _substring(self, text: FilterNode) -> FilterNode:
        args = [text, self.expression(0)]
        if self._accept("for"):
            args.append(self.expression(0))
        self._require(")")
        return FilterNode("call", tuple(args), "substr")

    def _cast(self, kind: str) -> FilterNode:
        value = self.expression(0)
        self._require("as")
        node = FilterNode(kind, (value,), self._type())
        self._require(")")
        return node

    def _type(self) -> str:
        """The name of a type; its width is not asked for."""
        kind, text = self._next()
        if kind != "word":
            raise self._expected("a type, such as double")
        if self._accept("("):
            self._list(")")
        return text.lower()

    def _list(self, end: str, *, begun: bool = False) -> tuple[FilterNode, ...]:
        """Expressions between commas, up to `end`; `begun`: the first of them was read."""
        found: list[FilterNode] = []
        if not begun:
            found.append(self.expression(0))
        while self._accept(","):
            found.append(self.expression(0))
        self._require(end)
        return tuple(found)

    def _infix(self, left: FilterNode, power: int) -> FilterNode:
        """Parse `left` with the operator that follows and what is behind it."""
        word = self._next()[1].lower()
        if power in (AND, OR):
            return self._chain(left, word, power)
        if word == "is":
            return self._is(left)
        if word == "not":
            return self._among(left, self._next()[1].lower(), negated=True)
        if power == AMONG:
            return self._among(left, word, negated=False)
        if word == "::":
            return FilterNode("cast", (left,), self._type())
        if word == "[":
            return FilterNode("index", (left, *self._list("]")))
        kind = {COMPARE: "compare", CONCAT: "concat"}.get(power, "arithmetic")
        return FilterNode(kind, (left, self.expression(power)), _COMPARISONS.get(word, word))

    def _chain(self, left: FilterNode, word: str, power: int) -> FilterNode:
        terms = [left, self.expression(power)]
        while self._accept(word):
            terms.append(self.expression(power))
        return FilterNode(word, tuple(terms))

    def _among(self, left: FilterNode, word: str, *, negated: bool) -> FilterNode:
        if word == "in":
            self._require("(")
            return FilterNode("in", (left, *self._list(")")), negated=negated)
        if word == "between":
            low = self.expression(AMONG)
            self._require("and")
            return FilterNode("between", (left, low, self.expression(AMONG)), negated=negated)
        if word not in ("like", "ilike"):
            raise self._expected("IN, BETWEEN or LIKE behind NOT")
        args = [left, self.expression(AMONG)]
        if self._accept("escape"):
            args.append(self.expression(AMONG))
        return FilterNode("like", tuple(args), word, negated)

    def _is(self, left: FilterNode) -> FilterNode:
        negated = bool(self._accept("not"))
        word = self._accept("null", "true", "false", "unknown", "distinct")
        if word == "distinct":
            self._require("from")
            return FilterNode("is", (left, self.expression(IS)), word, negated)
        if not word:
            raise self._expected("NULL, TRUE, FALSE or DISTINCT FROM behind IS")
        return FilterNode("is", (left,), word, negated)
