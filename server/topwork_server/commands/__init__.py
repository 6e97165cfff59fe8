"""The server's commands of the `topwork` command line."""
