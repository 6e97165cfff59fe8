"""The one table of what each operation needs, by the name under which its requests are counted, through whichever door."""

from __future__ import annotations

from collections.abc import Mapping

from topwork_server.access.caller import AccessRole

ANYONE, READER, WRITER, TRAINER, ADMIN = AccessRole

OPERATIONS: Mapping[str, AccessRole] = {
    # topwork.v1.Encoders
    **dict.fromkeys(("ListEncoders", "GetEncoder", "Embed", "EmbedStream", "NearestWords", "Fill", "ListPretrainers"), READER),
    "Pretrain": TRAINER,
    # topwork.v1.FeatureSets
    **dict.fromkeys(("ListSets", "GetSet", "Read", "CountRows", "ListVersions"), READER),
    **dict.fromkeys(("Write", "DeleteRows", "UpdateRows", "ChangeColumn", "DropSet"), WRITER),
    **dict.fromkeys(("PinVersion", "UnpinVersion", "PruneVersions"), WRITER),
    # topwork.v1.Indexes
    **dict.fromkeys(("ListKinds", "ListIndexes", "GetIndex", "Search"), READER),
    **dict.fromkeys(("CreateIndex", "RebuildIndex", "DropIndex"), WRITER),
    # topwork.v1.Heads
    **dict.fromkeys(("ListTrainers", "ListHeads", "GetHead", "GetReport", "Predict", "PredictStream"), READER),
    **dict.fromkeys(("Train", "Probe", "DropHead", "ExportHead"), TRAINER),
    # topwork.v1.Jobs: of others' jobs see `services/jobs.py`
    **dict.fromkeys(("ListJobs", "GetJob", "WatchJob"), READER),
    "CancelJob": WRITER,
    # tei.v1 and TEI's routes
    "tei.v1.Info/Info": READER,
    **dict.fromkeys(
        ("tei.v1.Embed/Embed", "tei.v1.Embed/EmbedStream", "tei.v1.Embed/EmbedAll", "tei.v1.Embed/EmbedAllStream"), READER
    ),
    **dict.fromkeys(("tei.v1.Embed/EmbedSparse", "tei.v1.Embed/EmbedSparseStream"), READER),
    **dict.fromkeys(("tei.v1.Predict/Predict", "tei.v1.Predict/PredictPair"), READER),
    **dict.fromkeys(("tei.v1.Predict/PredictStream", "tei.v1.Predict/PredictPairStream"), READER),
    **dict.fromkeys(("tei.v1.Rerank/Rerank", "tei.v1.Rerank/RerankStream"), READER),
    **dict.fromkeys(("tei.v1.Tokenize/Tokenize", "tei.v1.Tokenize/TokenizeStream"), READER),
    **dict.fromkeys(("tei.v1.Tokenize/Decode", "tei.v1.Tokenize/DecodeStream"), READER),
    **dict.fromkeys(("Tei.Embed", "Tei.ByKind", "Tei.EmbedAll", "Tei.EmbedSparse", "Tei.Predict", "Tei.Similarity"), READER),
    **dict.fromkeys(("Tei.Tokenize", "Tei.Decode", "Tei.Vertex", "Tei.Info"), READER),
    "Tei.Health": ANYONE,
    # the Open Inference Protocol
    **{
        f"{door}{name}": role
        for door in ("OIP.", "inference.GRPCInferenceService/")
        for names, role in (
            (("ServerLive", "ServerReady"), ANYONE),
            (("ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex"), READER),
            (("ModelInfer", "ModelStreamInfer"), READER),
            (("RepositoryModelLoad", "RepositoryModelUnload"), ADMIN),
            (("SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister"), ADMIN),
        )
        for name in names
    },
    # OpenAI, Cohere, rerank, LightlyStudio
    **dict.fromkeys(("OpenAI.Embeddings", "OpenAI.Models", "OpenAI.Model", "Cohere.Embed"), READER),
    **dict.fromkeys(("Rerank.Rerank", "Rerank.Score", "Lightly.Describe", "Lightly.Embed"), READER),
    # seen from outside: metrics name sets and encoders, and are for callers who may see all of them
    "Health": ANYONE,
    "Docs": ANYONE,
    "Metrics": READER,
}
#: Operations that tell of all sets and encoders at once.
UNSCOPED = frozenset({"Metrics"})


def role_for(operation: str) -> AccessRole:
    """The role that an operation needs; ADMIN for one that is not in the table."""
    return OPERATIONS.get(operation, ADMIN)
