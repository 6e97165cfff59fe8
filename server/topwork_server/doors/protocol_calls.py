"""The calls behind the doors of other protocols, over gRPC and over HTTP alike, and those doors that are on the port of gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from topwork_server.config import Config
from topwork_server.doors import tei_grpc
from topwork_server.doors.embedding import Embedder
from topwork_server.doors.links import LinkReader
from topwork_server.doors.oip import grpc_door as oip_grpc
from topwork_server.doors.oip.grpc_door import OipGrpcDoor
from topwork_server.doors.oip.inference import Inference
from topwork_server.doors.oip.repository import ModelRepository
from topwork_server.doors.oip.shared_memory import SharedMemory
from topwork_server.doors.prediction import HeadPredictor
from topwork_server.doors.ranking import Ranker
from topwork_server.doors.tei import TeiCalls
from topwork_server.doors.tei_grpc import TeiGrpcDoor
from topwork_server.doors.tei_predict import TeiPredict
from topwork_server.heads.head_manager import HeadManager
from topwork_server.heads.serving.predictor import Predictor
from topwork_server.inference.engine import Engine
from topwork_server.models.catalog import Catalog
from topwork_server.services.health import HealthService

#: Names of the services of other protocols.
SERVICES = (oip_grpc.SERVICE, *tei_grpc.SERVICES)


class ProtocolCalls:
    """Composes the calls. `serves` tells whether an encoder would answer now, by its name; `links` fetches items by URL."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        config: Config,
        predictor: Predictor,
        heads: HeadManager,
        health: HealthService,
        serves: Callable[[str], bool],
        links: LinkReader,
    ) -> None:
        self.engine, self.catalog, self.config, self.health = engine, catalog, config, health
        self.embedder = Embedder(engine, catalog, config.default_encoder, links)
        self.ranker = Ranker(self.embedder)
        self.heads = HeadPredictor(self.embedder, predictor, heads)
        self.tei = TeiCalls(self.embedder, self.ranker, config)
        self.tei_predict = TeiPredict(self.heads, self.tei)
        self.memory = SharedMemory(allowed=config.shared_memory)
        self.inference = Inference(self.embedder, self.heads, self.memory, config.max_items)
        extensions = ("system_shared_memory",) if self.memory.allowed else ()
        self.repository = ModelRepository(engine, catalog, self.heads, serves, extensions)

    def grpc_handlers(self, stopping: asyncio.Event) -> tuple[grpc.GenericRpcHandler, ...]:
        """The tables of the methods on the port of gRPC. Their streams take no more requests once `stopping` is set."""
        oip = OipGrpcDoor(self.inference, self.repository, self.memory, self.health, stopping)
        return (oip.handler(), *TeiGrpcDoor(self.tei, self.tei_predict, stopping).handlers())

    def close(self) -> None:
        self.memory.close()
