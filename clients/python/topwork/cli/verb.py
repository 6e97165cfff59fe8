"""Parts that the commands of `topwork` share: the reading of their words, and types of flags."""

from __future__ import annotations

import codecs
import io
import json
import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce, wraps
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, TypeVar

import click

from topwork.cli.wording import in_commands

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Value = TypeVar("Value")
PATH = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
_NUMBER = re.compile(r"-(\d+|\d*\.\d+)")


class ItemCommand(click.Command):
    """A command whose items may begin with a dash, as texts do: `"- buy milk"` and `-5` are items, `-5x` is a flag."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options, items = list[str](), list[str]()
        words = deque(args)
        while words:
            word = words.popleft()
            if word == "--":
                items += words
                break
            if self._is_flag(word):
                options += self._flag(ctx, word, words)
            else:
                items.append(word)
        return super().parse_args(ctx, [*options, "--", *items])

    #: Flags that do something only beside one of others, and those that do nothing beside any of others: see `verb`.
    only_with: Mapping[str, Sequence[str]]
    not_with: Mapping[str, Sequence[str]]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. UsageError for a flag that would do nothing beside what else was said."""
        for name, others in self.only_with.items():
            if self._given(ctx, name) and not any(self._given(ctx, other) for other in others):
                raise click.UsageError(f"{self._shown(name)} does something only with {self._listed(others)}", ctx)
        for name, others in self.not_with.items():
            if self._given(ctx, name) and (beside := [other for other in others if self._given(ctx, other)]):
                raise click.UsageError(f"{self._shown(name)} does nothing beside {self._listed(beside)}", ctx)
        return super().invoke(ctx)

    def _given(self, ctx: click.Context, said: str) -> bool:
        """Tell whether a parameter was given, "verb=update" with that value. A default is not."""
        name, equals, value = said.partition("=")
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            return False
        return ctx.params[name] == value if equals else bool(ctx.params[name]) or ctx.params[name] == 0

    def _listed(self, said: Sequence[str]) -> str:
        *others, last = dict.fromkeys(map(self._shown, said))
        return f"{', '.join(others)} or {last}" if others else last

    def _shown(self, said: str) -> str:
        """A flag as it is written, an argument by its name; with a value, the flag with it or the argument's alone."""
        name, _, value = said.partition("=")
        param = next(param for param in self.params if param.name == name)
        if isinstance(param, click.Option):
            return f"{max(param.opts, key=len)} {value}".rstrip()
        return value or name.upper()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are."""
        if self.epilog:
            formatter.write(f"\n{self.epilog}")

    def _flag(self, ctx: click.Context, flag: str, words: deque[str]) -> Iterator[str]:
        """Yield the flag with its value, which is taken from the words; with `Several`, once for each of its values."""
        option = next((param for param in self.params if flag in param.opts and not getattr(param, "is_flag", False)), None)
        if option is None:
            yield re.sub(r"^(-\w)=", r"\1", flag)  # -k=5 is -k5
            return
        if not words or self._is_flag(words[0]):
            raise click.BadOptionUsage(flag, f"Option {flag!r} requires an argument.", ctx)
        yield from (flag, words.popleft())
        while isinstance(option, Several) and words and not self._is_flag(words[0]):
            yield from (flag, words.popleft())

    def _is_flag(self, word: str) -> bool:
        """Tell flags from items. A word with a space is a flag where one that there is comes before its `=`."""
        if not word.startswith("-") or word == "-" or _NUMBER.fullmatch(word):
            return False
        return " " not in word or any(word.partition("=")[0] in param.opts for param in self.params)


class Several(click.Option):
    """A flag that takes one value or more at once, and may be repeated: `--taps layer3 pooled`."""


class Number(click.FloatRange):
    """A number within bounds, which NaN is not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


def verb(
    epilog: str = "",
    only_with: Mapping[str, Sequence[str]] = MappingProxyType({}),
    not_with: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Callable[[Callable[[SimpleNamespace], int]], ItemCommand]:
    """Make a command of a function that is called with the values of all its flags, and returns the exit status.

    only_with  of a parameter those of which one must be given, too, or it would do nothing: {"where": ("set",)}; "verb=update" is
               one with that value
    not_with   of a parameter those beside which it would do nothing
    """

    def decorate(function: Callable[[SimpleNamespace], int]) -> ItemCommand:
        @wraps(function)
        def run(**values: Any) -> int:
            from topwork.errors import TopworkError  # with gRPC, which the help screen does not need

            try:
                return function(SimpleNamespace(**{n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}))
            except TopworkError as error:
                error.message, error.remedy = in_commands(error.message), in_commands(error.remedy)
                raise

        command: ItemCommand = click.command(function.__name__, cls=ItemCommand, epilog=epilog)(run)
        command.only_with, command.not_with = only_with, not_with
        return command

    return decorate


def flags(*options: Callable[[Any], Any]) -> Callable[[Decorated], Decorated]:
    """Join several options into one decorator."""

    def add(function: Decorated) -> Decorated:
        return reduce(lambda decorated, option: option(decorated), reversed(options), function)

    return add


def key_value(text: str) -> tuple[str, Any]:
    """Read K=V; a value that is JSON (true, 3, 0.5, [..]) is that, any other a string."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{text!r} is not K=V")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def by_name(flag: str, pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """Join what a flag that may be repeated says of names. UsageError where it says two things of one."""
    found: dict[str, Value] = {}
    for name, value in pairs:
        if name in found:
            raise click.UsageError(f"{flag} says two things of {name!r}: give it once")
        found[name] = value
    return found


def version(text: str) -> int | str:
    """Read a version's number, or the name that it is pinned under."""
    return int(text) if text.isdecimal() and len(text) < 19 else text


def names(text: str) -> list[str]:
    """Read A,B,C."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise click.BadParameter("name at least one")
    return found


def separator(text: str) -> str:
    r"""Read what is between columns; \t is a tab."""
    return "\t" if text == r"\t" else text


def encoding_name(text: str) -> str:
    """Check a flag that names an encoding of Python's."""
    try:
        found = codecs.lookup(text)
        io.TextIOWrapper(io.BytesIO(), encoding=text)  # refuses those that are not of texts, such as hex
    except (LookupError, ValueError):
        raise click.BadParameter(f"{text!r} is no encoding: say utf-8, cp1252, latin-1, utf-16 ...") from None
    return found.name
