"""One thin module per gRPC service; `convert` is protobuf <-> numpy, `interceptor` alone turns errors into replies."""
