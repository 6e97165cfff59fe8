"""Passes of tests, which call managers as the server itself does."""

from __future__ import annotations

from topwork_server.access.passes import EncoderPass, HeadPass, SetPass, server_pass


def of_set(name: str) -> SetPass:
    return server_pass(SetPass, name)


def of_encoder(name: str) -> EncoderPass:
    return server_pass(EncoderPass, name)


def of_head(name: str) -> HeadPass:
    return server_pass(HeadPass, name)
