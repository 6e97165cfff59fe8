"""The commands of `topwork` by what they are about; the client's are imported when they run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module

import click

import topwork

#: The entry points of other distributions: functions that add their commands to the group that they are called with.
ENTRY_POINTS = "topwork.commands"
#: The client's commands: the module of `topwork.cli` that has each, and its line on the help screen.
CLIENT_COMMANDS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "features": {
        "encoders": ("encoders", "what the server serves"),
        "embed": ("embed", "features of texts, pictures, clips or recordings"),
        "nearest": ("encoders", "nearest words of an encoder's vocabulary"),
        "fill": ("fill", "words for the gaps of texts"),
        "pretrain": ("pretrain", "an encoder out of texts without labels; the kinds"),
    },
    "sets": {
        "write": ("write", "texts, pictures, clips, recordings or vectors into a set"),
        "sets": ("sets", "what sets there are; one in full; its columns, counts and updates"),
        "read": ("read", "items of a set, to the screen or into a file"),
        "delete": ("sets", "items out of a set"),
        "drop": ("sets", "a whole set with its indexes, or one index"),
        "versions": ("versions", "a set's versions: list, pin, prune"),
    },
    "search": {
        "index": ("indexes", "build an index over a set"),
        "indexes": ("indexes", "what indexes there are, or one in full; kinds"),
        "search": ("search", "what of a set is nearest to a query"),
        "jobs": ("jobs", "builds and trainings, under way and before: list, watch, cancel"),
    },
    "heads": {
        "train": ("train", "a head that learns a column of a set"),
        "predict": ("predict", "what heads say of items"),
        "heads": ("heads", "what heads there are, or one in full; export, drop"),
        "report": ("report", "how good a head is, and where it fails"),
        "probe": ("train", "compare encoders and taps on one task"),
        "trainers": ("train", "the kinds of training, and their options"),
    },
}
#: What the server brings, to tell its absence from a typing mistake.
SERVER_VERBS = ("serve", "pull", "export", "quantize", "forget", "prune", "plugins", "doctor", "demo", "keys")
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 130}


def all_commands() -> Commands:
    """Make the group `topwork`. It is called with `obj`, a function to call when the command's modules are imported, or None."""

    @click.group(cls=Commands, invoke_without_command=True, context_settings=SETTINGS)
    @click.version_option(topwork.__version__, message="topwork %(version)s")
    @click.pass_context
    def group(context: click.Context) -> int:
        """Features of texts, pictures, videos and sound, from frozen encoders served over gRPC; search and trained heads."""
        if context.invoked_subcommand is None:
            click.echo(context.get_help())
        return 2

    return group


class Commands(click.Group):
    """The group of all commands. Those of other distributions are loaded where a command is not the client's, and for help."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self._modules = {name: module for group in CLIENT_COMMANDS.values() for name, (module, _) in group.items()}
        for group in CLIENT_COMMANDS.values():
            self.commands.update({name: click.Command(name, help=summary) for name, (_, summary) in group.items()})
        self._complete = False

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._modules:
            command: click.Command = getattr(import_module(f"topwork.cli.{self._modules[cmd_name]}"), cmd_name)
            command.help = self.commands[cmd_name].help
            return command
        self._load_others()
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Call `ctx.obj`, if it is given, when the command's modules are imported."""
        if args[0] in SERVER_VERBS and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"`topwork {args[0]}` comes with the server: pip install topwork-server")
        found = super().resolve_command(ctx, args)
        if ctx.obj:
            ctx.obj()
        return found

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write all commands on one screen, by what they are about."""
        self._load_others()
        groups = {**{title: tuple(verbs) for title, verbs in CLIENT_COMMANDS.items()}, "server": SERVER_VERBS}
        grouped = {verb for verbs in groups.values() for verb in verbs}
        groups["others"] = tuple(verb for verb in self.commands if verb not in grouped)
        lines = list[tuple[str, str]]()
        for title, verbs in groups.items():
            for position, verb in enumerate(verb for verb in verbs if verb in self.commands):
                heading = "" if position else title
                lines.append((f"{heading:10}{verb}", self.commands[verb].get_short_help_str(200)))
        formatter.write(f"Usage: topwork COMMAND ...   (also: topwork COMMAND --help, topwork --version)\n{self.help}\n\n")
        formatter.write_dl(lines)

    def _load_others(self) -> None:
        """Let other distributions add their commands. One that is broken is reported, and the others go on."""
        from importlib.metadata import entry_points

        if self._complete:
            return
        self._complete = True
        for entry in entry_points(group=ENTRY_POINTS):
            try:
                entry.load()(self)
            except Exception as error:
                owner = entry.dist.name if entry.dist else entry.value
                print(f"topwork: the commands of {owner} are missing: {type(error).__name__}: {error}", file=sys.stderr)
