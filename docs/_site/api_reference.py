"""An extension of griffe: docstrings become Markdown, and the client's verbs, which are made of functions, become methods.

`embed = _blocking(embed_ops.embed)` is shown as `embed(encoder, items, ...) -> Features` with the function's docstring.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

#: "name    what it is": a line of an aligned table. Its further lines are indented.
ENTRY = re.compile(r"^(\w[\w.,* ]*?) {2,}(\S.*)$")
MAKERS = {"_blocking": "{}", "_iterating": "Generator[{}]"}


class Verbs(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        if pkg.path != "topwork":
            return
        module = pkg["client"]
        client, shown = module["Client"], 0
        for name, member in list(client.members.items()):
            value = _cast(getattr(member, "value", None))
            if isinstance(value, griffe.ExprCall) and str(value.function) in MAKERS:
                client.set_member(name, _method(name, module, value))
                shown += 1
        assert shown, "client.py makes its verbs in another way"


def markdown(docstring: str) -> str:
    """Aligned tables as lists, trees as they are."""
    if "├──" in docstring:
        first, _, rest = docstring.partition("\n\n")
        return f"{first}\n\n```text\n{rest}\n```"
    lines: list[str] = []
    for line in docstring.splitlines():
        if entry := ENTRY.match(line):
            lines += [""] * (not lines or not lines[-1].startswith(("- ", "  "))) + [f"- `{entry[1]}`: {entry[2]}"]
        elif line.startswith("  ") and lines and lines[-1].startswith(("- ", "  ")):
            lines.append("  " + line.strip())
        else:
            lines.append(line)
    return "\n".join(lines)


def _cast(value: Any) -> Any:
    """`x` of `cast(T, x)`."""
    return value.arguments[1] if isinstance(value, griffe.ExprCall) and str(value.function) == "cast" else value


def _method(name: str, module: griffe.Module, call: griffe.ExprCall) -> griffe.Function:
    verb = module[str(call.arguments[0])]
    made = griffe.Function(
        name,
        parameters=griffe.Parameters(*[p for p in verb.parameters if p.name != "session"]),
        returns=MAKERS[str(call.function)].format(_result(verb.returns)),
        docstring=verb.docstring,
        lineno=verb.lineno,
        endlineno=verb.endlineno,
    )
    made.labels.add("verb")
    return made


def _result(returns: Any) -> str:
    """Features of Steps[Features], Features of Steps[Stream[Features]]."""
    text = str(returns)
    for wrapper in ("Steps", "Stream"):
        if text.startswith(wrapper + "["):
            text = text[len(wrapper) + 1 : -1]
    return text
