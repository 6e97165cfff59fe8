"""Ways in beside gRPC: each translates a protocol that others' clients speak into the calls that the services share."""
