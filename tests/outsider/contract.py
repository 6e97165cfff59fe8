"""What the outsider's own test suite would be: the contracts, on what it brings. Run by tests/server/test_outsider.py."""

from brute import Brute
from topwork_server.testing import EncoderContract
from topwork_server.testing_index import IndexContract


class TestColours(EncoderContract):
    encoder = "colours"


class TestBrute(IndexContract):
    index = Brute
