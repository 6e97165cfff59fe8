"""The package itself: light to import, in step with its protocol, documented."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module

import click
import pytest
import topwork
from google.protobuf import descriptor_pool, message_factory
from topwork import cli, errors
from topwork._transport import methods, status
from topwork._transport.calls import Method
from topwork.cli.commands import CLIENT_COMMANDS
from topwork.v1 import encoders_pb2, heads_pb2, indexes_pb2, jobs_pb2, sets_pb2

HEAVY = {
    "torch",
    "onnxruntime",
    "faiss",
    "pyarrow",
    "lance",
    "pandas",
    "PIL",
    "rich",
    "cv2",
    "transformers",
    "google.rpc",
    "topwork_server",
    "grpc_status",
    "sklearn",
    "langchain_core",
    "llama_index",
    "haystack",
    "datasets",
    "ray",
    "fiftyone",
}


def imported_by(program: str) -> set[str]:
    listing = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(listing.stdout.split())


def test_importing_it_imports_nothing_heavy() -> None:
    assert not imported_by("import topwork") & HEAVY


def test_a_missing_library_of_an_integration_is_told_with_the_extra_that_installs_it() -> None:
    program = "import sys; sys.modules['sklearn'] = None; import topwork.integrations.sklearn"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ImportError: scikit-learn" in done.stderr
    assert "pip install 'topwork[sklearn]'" in done.stderr


def test_its_command_imports_nothing_heavy() -> None:
    program = "import topwork.cli; topwork.cli.main(['embed', '--help'])"
    assert not imported_by(program) & HEAVY


def test_the_help_screen_needs_no_library() -> None:
    """Commands of the client and of the server load nothing for it: `topwork --help` stays under half a second."""
    program = "import topwork.cli; topwork.cli.main(['--help'])"
    assert not imported_by(program) & {*HEAVY - {"topwork_server"}, "numpy", "grpc", "google.protobuf", "pluggy", "asyncio"}


def test_every_command_of_the_client_has_its_line_on_the_help_screen() -> None:
    listed = {(module, verb) for group in CLIENT_COMMANDS.values() for verb, (module, _) in group.items()}
    modules = [module.name for module in pkgutil.iter_modules(cli.__path__) if module.name != "__main__"]
    made = {(name, verb) for name in modules for verb in vars(import_module(f"topwork.cli.{name}")) if _is_command(name, verb)}
    assert made == listed


def _is_command(module: str, name: str) -> bool:
    return isinstance(getattr(import_module(f"topwork.cli.{module}"), name), click.Command)


SERVICES = {
    service.full_name: service
    for pb2 in (encoders_pb2, sets_pb2, indexes_pb2, heads_pb2, jobs_pb2)
    for service in pb2.DESCRIPTOR.services_by_name.values()
}
METHODS = [value for value in vars(methods).values() if isinstance(value, Method) and value.path.startswith("/topwork.")]


def test_every_method_of_the_services_is_there() -> None:
    offered = [f"/{service.full_name}/{method.name}" for service in SERVICES.values() for method in service.methods]
    assert sorted(method.path for method in METHODS) == sorted(offered)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path.rpartition("/")[2])
def test_methods_are_those_of_the_protocol(method: Method) -> None:  # type: ignore[type-arg]
    _, service, name = method.path.split("/")
    wanted = SERVICES[service].methods_by_name[name]
    assert method.request.DESCRIPTOR is wanted.input_type
    assert method.reply.DESCRIPTOR is wanted.output_type
    sides = ["stream" if streams else "unary" for streams in (wanted.client_streaming, wanted.server_streaming)]
    assert method.kind == "_".join(sides)


def test_health_messages_lie_on_the_wire_as_the_wrappers_do() -> None:
    from grpc_health.v1 import health_pb2

    request = methods.HEALTH.request(value="a.b")
    assert request.SerializeToString() == health_pb2.HealthCheckRequest(service="a.b").SerializeToString()
    reply = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
    assert methods.HEALTH.reply.FromString(reply.SerializeToString()).value == 2
    service = descriptor_pool.Default().FindServiceByName("grpc.health.v1.Health")
    assert methods.HEALTH.path == f"/{service.full_name}/Check"
    assert message_factory.GetMessageClass(service.methods_by_name["Check"].input_type) is health_pb2.HealthCheckRequest


def test_every_error_of_the_server_has_its_class() -> None:
    from topwork_server import errors as of_server

    tree = [kind for kind in vars(of_server).values() if inspect.isclass(kind) and issubclass(kind, of_server.TopworkError)]
    sent = {kind for kind in tree if kind is not of_server.TopworkError and not issubclass(kind, of_server.StartError)}
    assert {kind.__name__ for kind in sent} == set(status.REASONS)
    for kind in sent:
        assert status.REASONS[kind.__name__].code == kind.code


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, errors.TopworkError):
            assert name in (errors.__doc__ or "")


def verbs(kind: type) -> dict[str, object]:
    return {name: method for name, method in vars(kind).items() if not name.startswith("_") and name != "close"}


def test_both_clients_have_the_same_documented_verbs() -> None:
    blocking, asynchronous = verbs(topwork.Client), verbs(topwork.AsyncClient)
    assert list(blocking) == list(asynchronous)
    for name, method in blocking.items():
        assert inspect.getdoc(method)
        mine, other = inspect.signature(method), inspect.signature(asynchronous[name])  # type: ignore[arg-type]
        assert list(mine.parameters.values()) == list(other.parameters.values())
        assert next(iter(mine.parameters)) == "self"


def test_signatures_say_what_comes_back() -> None:
    assert inspect.signature(topwork.Client.embed).return_annotation == "Features"
    assert inspect.signature(topwork.Client.encoders).return_annotation == "list[EncoderInfo]"
    assert inspect.signature(topwork.Client.embed_stream).return_annotation == "Generator[Features, None, None]"
    assert inspect.signature(topwork.AsyncClient.embed_stream).return_annotation == "AsyncGenerator[Features, None]"
    assert inspect.signature(topwork.Client.read_stream).return_annotation == "Generator[Rows, None, None]"
    assert inspect.signature(topwork.AsyncClient.watch_job).return_annotation == "AsyncGenerator[Job, None]"
    assert inspect.signature(topwork.Client.search).return_annotation == "Hits | list[Hits]"
    assert inspect.iscoroutinefunction(topwork.AsyncClient.embed)


def test_all_that_is_exported_exists_and_is_documented() -> None:
    for name in topwork.__all__:
        assert inspect.getdoc(getattr(topwork, name)), name
