"""Messages of other protocols, generated from protos/others."""
