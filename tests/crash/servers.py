"""Servers in processes of their own, to be killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path


def start(home: Path) -> tuple[subprocess.Popen[str], str]:
    """It, and its address."""
    command = [sys.executable, "-m", "topwork.cli", "serve", "--json", "--listen", "127.0.0.1:0", "--home", str(home)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    return server, json.loads(server.stdout.readline())["address"]


def kill(server: subprocess.Popen[str]) -> None:
    """With SIGKILL; no error where it is dead."""
    server.send_signal(signal.SIGKILL)
    server.wait(60)
    assert server.stdout
    server.stdout.close()
