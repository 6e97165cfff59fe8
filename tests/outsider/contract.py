"""The outsider's own test suite: the contracts, on what it brings. Run by tests/server/test_installed_plugins.py."""

from brute import Brute
from means import NearestMean
from topwork_server.testing import EncoderContract, IndexContract, TrainerContract


class TestColors(EncoderContract):
    encoder = "colors"


class TestBrute(IndexContract):
    index = Brute


class TestNearestMean(TrainerContract):
    trainer = NearestMean
