"""Channels, retries, streams and statuses: how calls reach a server."""
