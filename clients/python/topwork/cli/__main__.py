"""`python -m topwork.cli`: the command `topwork` without its script."""

from topwork.cli import command

if __name__ == "__main__":
    command()
