"""What the outsider's own test suite would be: the contract, on its encoder. Run by tests/server/test_outsider.py."""

from topwork_server.testing import EncoderContract


class TestColours(EncoderContract):
    encoder = "colours"
