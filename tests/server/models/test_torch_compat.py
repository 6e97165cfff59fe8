"""torch_compat.py, in processes of their own: what was imported cannot be taken back."""

from __future__ import annotations

import subprocess
import sys


def test_the_libraries_import_after_it_and_it_may_be_called_twice() -> None:
    """timm and transformers import torchvision, which is where they fail without it."""
    libraries = "import torchvision; import timm; from transformers import BertModel"
    ready = "from topwork_server.models.torch_compat import prepare_torchvision; prepare_torchvision(); prepare_torchvision()"
    program = f"{ready}; {libraries}; prepare_torchvision()"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
