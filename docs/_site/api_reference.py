"""An extension of griffe: docstrings become Markdown, and the client's verbs, which are made of functions, become methods.

`embed = Verb(embed_ops.embed)` is shown as `embed(encoder, items, ...) -> Features` with the function's docstring.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

#: "name    what it is": a line of an aligned table. Its further lines are indented.
ENTRY = re.compile(r"^(\w[\w.,* ]*?) {2,}(\S.*)$")
#: What `Client` returns of a verb, by its class.
RETURNS = {"Verb": "{}", "OverloadedVerb": "{}", "StreamVerb": "Generator[{}]"}


class Verbs(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        if pkg.path != "topwork":
            return
        module, client = pkg["_verbs"], pkg["client"]["Client"]
        verbs = {name: member.value for name, member in module["ClientBase"].members.items() if _maker(member) in RETURNS}
        assert verbs, "_verbs.py names the verbs in another way"
        for name, call in verbs.items():
            client.set_member(name, _method(name, module, call))


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


def _maker(member: Any) -> str:
    """The class that is called to make a member."""
    value = getattr(member, "value", None)
    return str(value.function).partition("[")[0] if isinstance(value, griffe.ExprCall) else ""


def _method(name: str, module: griffe.Module, call: griffe.ExprCall) -> griffe.Function:
    verb = module[str(call.arguments[0])]
    made = griffe.Function(
        name,
        parameters=griffe.Parameters(*[p for p in verb.parameters if p.name != "session"]),
        returns=RETURNS[str(call.function).partition("[")[0]].format(_result(verb.returns)),
        docstring=verb.docstring,
        lineno=verb.lineno,
        endlineno=verb.endlineno,
    )
    made.labels.add("verb")
    return made


def _result(returns: Any) -> str:
    """Features of Steps[Features], Features of Steps[StreamCall[Features]]."""
    text = str(returns)
    for wrapper in ("Steps", "StreamCall"):
        if text.startswith(wrapper + "["):
            text = text[len(wrapper) + 1 : -1]
    return text
