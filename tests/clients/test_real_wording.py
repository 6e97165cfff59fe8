"""Remedies name what their reader has: calls of the SDK, or commands and flags on the command line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import topwork
from cli_command import Command
from topwork._transport.wording import CALLS
from topwork.cli.wording import COMMANDS
from topwork.errors import TopworkError

ROOT = Path(__file__).parents[2]
Call = Callable[[topwork.Client], object]
#: Calls that are refused, what of the SDK their remedy names, the same command, and what of the command line its remedy names.
REFUSED: list[tuple[Call, str, str, str]] = [
    (
        lambda client: client.train("mails", target="topic", task="classification", kind="fcos"),
        "`trainers()`",
        "train mails --target topic --task classification --kind fcos",
        "`topwork trainers`",
    ),
    (lambda client: client.predict([], vectors=[[1.0]]), "`heads()`", "", ""),
    (
        lambda client: client.train("mails", target="topic", name="a/b"),
        "`name`",
        "train mails --target topic --name a/b",
        "--name",
    ),
    (
        lambda client: client.create_index("mails"),
        "`rebuild_index('mails', 'mean')`",
        "index mails",
        "`topwork drop mails --index mean`",
    ),
    (lambda client: client.fill("letters", ["a [MASK]"]), "`encoder(NAME)`", "fill letters a", "`topwork encoders NAME`"),
]


@pytest.fixture
def mails(real_client: topwork.Client) -> topwork.Client:
    texts = ["paid twice", "a bill", "crash", "no start"]
    topics = {"topic": ["money", "money", "fault", "fault"]}
    real_client.write("mails", texts, ids=list("abcd"), metadata=topics, encoder="letters")
    real_client.create_index("mails", kind="flat")
    return real_client


def test_remedies_name_calls_in_the_sdk_and_commands_on_the_command_line(
    mails: topwork.Client, real_target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(real_target, capsys)
    for call, named, words, shown in REFUSED:
        with pytest.raises(TopworkError) as caught:
            call(mails)
        assert named in caught.value.remedy
        if words:
            assert command(*words.split()) == 1
            assert shown in command.stderr


def test_every_method_is_a_call_and_every_call_a_command() -> None:
    methods = {
        name
        for proto in (ROOT / "protos" / "topwork").rglob("*.proto")
        for name in re.findall(r"rpc (\w+)", proto.read_text("utf-8"))
    }
    assert set(CALLS) == methods - {"ChangeColumn"}
    assert set(CALLS.values()) == set(COMMANDS)
    assert all(callable(getattr(topwork.Client, name)) for name in COMMANDS)


def test_no_remedy_of_the_server_names_a_command_of_the_client() -> None:
    commands = "|".join(sorted({words.split()[0] for words in COMMANDS.values()}))
    named = re.compile(rf"`topwork ({commands})\b")
    for room in ("server/topwork_server", "plugins/topwork_plugins"):
        for path in (ROOT / room).rglob("*.py"):
            if "commands" in path.parts:  # run where the server does, by a person
                continue
            text = re.sub(r'""".*?"""', "", path.read_text("utf-8"), flags=re.DOTALL)
            assert not named.search(text), path
            for method in re.findall(r"`([A-Z][a-z]+[A-Z]?[a-z]*)\(", text):
                assert method in CALLS, path
