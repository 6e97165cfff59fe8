"""The standard tests of langchain-tests. Its plugins change how all of pytest runs: `make test-integrations` runs them apart."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import topwork
from langchain_tests.integration_tests import EmbeddingsIntegrationTests, VectorStoreIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from topwork.integrations.langchain import TopworkEmbeddings, TopworkVectorStore


@pytest.fixture(autouse=True)
def usual_server(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPWORK_SERVER", server)


class Embeddings:
    @property
    def embeddings_class(self) -> type[TopworkEmbeddings]:
        return TopworkEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"encoder": "letters"}


class TestEmbeddingsUnit(Embeddings, EmbeddingsUnitTests):
    pass


class TestEmbeddings(Embeddings, EmbeddingsIntegrationTests):
    pass


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, client: topwork.Client) -> Iterator[TopworkVectorStore]:
        store = TopworkVectorStore(f"standard-{uuid.uuid4().hex[:8]}", self.get_embeddings())
        yield store
        if store.name in {info.name for info in client.sets()}:
            client.drop_set(store.name)


class TestVectorStoreOfAnEncoder(TestVectorStore):
    @staticmethod
    def get_embeddings() -> TopworkEmbeddings:
        return TopworkEmbeddings("letters")
