"""Mistakes that a type checker must see, one a line: never run (`test_typing.py`)."""

import topwork


def mistakes(client: topwork.Client) -> None:
    client.search("s", "a bird", k="3")
    print(client.search("s", "a bird").nothing)
    print(client.search("s", ["a bird"]).ids)
    client.embed("letters", ["a"], normaliz=True)
    client.read("s", version=1.5)
    print(client.predict("h", ["a"])["h"])
