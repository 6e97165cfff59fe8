"""Every gRPC method that the client calls."""

from __future__ import annotations

from google.protobuf import wrappers_pb2

from topwork._transport.calls import Method
from topwork.v1 import encoders_pb2, heads_pb2, indexes_pb2, jobs_pb2, sets_pb2

_ENCODERS, _SETS = "/topwork.v1.Encoders/", "/topwork.v1.FeatureSets/"
_INDEXES, _HEADS, _JOBS = "/topwork.v1.Indexes/", "/topwork.v1.Heads/", "/topwork.v1.Jobs/"

LIST_ENCODERS = Method(_ENCODERS + "ListEncoders", encoders_pb2.ListEncodersRequest, encoders_pb2.ListEncodersResponse)
GET_ENCODER = Method(_ENCODERS + "GetEncoder", encoders_pb2.GetEncoderRequest, encoders_pb2.Encoder)
EMBED = Method(_ENCODERS + "Embed", encoders_pb2.EmbedRequest, encoders_pb2.EmbedResponse)
EMBED_STREAM = Method(_ENCODERS + "EmbedStream", encoders_pb2.EmbedStreamRequest, encoders_pb2.EmbedResponse, "stream_stream")
NEAREST_WORDS = Method(_ENCODERS + "NearestWords", encoders_pb2.NearestWordsRequest, encoders_pb2.NearestWordsResponse)
FILL = Method(_ENCODERS + "Fill", encoders_pb2.FillRequest, encoders_pb2.FillResponse)
LIST_PRETRAINERS = Method(
    _ENCODERS + "ListPretrainers", encoders_pb2.ListPretrainersRequest, encoders_pb2.ListPretrainersResponse
)
PRETRAIN = Method(_ENCODERS + "Pretrain", encoders_pb2.PretrainRequest, jobs_pb2.Job, "stream_unary", once=True)

LIST_SETS = Method(_SETS + "ListSets", sets_pb2.ListSetsRequest, sets_pb2.ListSetsResponse)
GET_SET = Method(_SETS + "GetSet", sets_pb2.GetSetRequest, sets_pb2.FeatureSet)
DROP_SET = Method(_SETS + "DropSet", sets_pb2.DropSetRequest, sets_pb2.DropSetResponse, once=True)
WRITE = Method(_SETS + "Write", sets_pb2.WriteRequest, sets_pb2.WriteResponse, "stream_stream")
READ = Method(_SETS + "Read", sets_pb2.ReadRequest, sets_pb2.ReadResponse, "unary_stream")
DELETE_ROWS = Method(_SETS + "DeleteRows", sets_pb2.DeleteRowsRequest, sets_pb2.DeleteRowsResponse)
COUNT_ROWS = Method(_SETS + "CountRows", sets_pb2.CountRowsRequest, sets_pb2.CountRowsResponse)
UPDATE_ROWS = Method(_SETS + "UpdateRows", sets_pb2.UpdateRowsRequest, sets_pb2.UpdateRowsResponse)
CHANGE_COLUMN = Method(_SETS + "ChangeColumn", sets_pb2.ChangeColumnRequest, sets_pb2.FeatureSet, once=True)
LIST_VERSIONS = Method(_SETS + "ListVersions", sets_pb2.ListVersionsRequest, sets_pb2.ListVersionsResponse)
PIN_VERSION = Method(_SETS + "PinVersion", sets_pb2.PinVersionRequest, sets_pb2.Version)
UNPIN_VERSION = Method(_SETS + "UnpinVersion", sets_pb2.UnpinVersionRequest, sets_pb2.UnpinVersionResponse)
PRUNE_VERSIONS = Method(_SETS + "PruneVersions", sets_pb2.PruneVersionsRequest, sets_pb2.PruneVersionsResponse)

LIST_KINDS = Method(_INDEXES + "ListKinds", indexes_pb2.ListKindsRequest, indexes_pb2.ListKindsResponse)
CREATE_INDEX = Method(_INDEXES + "CreateIndex", indexes_pb2.CreateIndexRequest, indexes_pb2.Index, once=True)
LIST_INDEXES = Method(_INDEXES + "ListIndexes", indexes_pb2.ListIndexesRequest, indexes_pb2.ListIndexesResponse)
GET_INDEX = Method(_INDEXES + "GetIndex", indexes_pb2.GetIndexRequest, indexes_pb2.Index)
REBUILD_INDEX = Method(_INDEXES + "RebuildIndex", indexes_pb2.RebuildIndexRequest, indexes_pb2.Index, once=True)
DROP_INDEX = Method(_INDEXES + "DropIndex", indexes_pb2.DropIndexRequest, indexes_pb2.DropIndexResponse, once=True)
SEARCH = Method(_INDEXES + "Search", indexes_pb2.SearchRequest, indexes_pb2.SearchResponse)

LIST_TRAINERS = Method(_HEADS + "ListTrainers", heads_pb2.ListTrainersRequest, heads_pb2.ListTrainersResponse)
TRAIN = Method(_HEADS + "Train", heads_pb2.TrainRequest, heads_pb2.Head, once=True)
LIST_HEADS = Method(_HEADS + "ListHeads", heads_pb2.ListHeadsRequest, heads_pb2.ListHeadsResponse)
GET_HEAD = Method(_HEADS + "GetHead", heads_pb2.GetHeadRequest, heads_pb2.Head)
DROP_HEAD = Method(_HEADS + "DropHead", heads_pb2.DropHeadRequest, heads_pb2.DropHeadResponse, once=True)
GET_REPORT = Method(_HEADS + "GetReport", heads_pb2.GetReportRequest, heads_pb2.Report)
PROBE = Method(_HEADS + "Probe", heads_pb2.ProbeRequest, jobs_pb2.Job, once=True)
PREDICT = Method(_HEADS + "Predict", heads_pb2.PredictRequest, heads_pb2.PredictResponse)
PREDICT_STREAM = Method(_HEADS + "PredictStream", heads_pb2.PredictStreamRequest, heads_pb2.PredictResponse, "stream_stream")
EXPORT_HEAD = Method(_HEADS + "ExportHead", heads_pb2.ExportHeadRequest, heads_pb2.ExportHeadResponse, "unary_stream")

LIST_JOBS = Method(_JOBS + "ListJobs", jobs_pb2.ListJobsRequest, jobs_pb2.ListJobsResponse)
GET_JOB = Method(_JOBS + "GetJob", jobs_pb2.GetJobRequest, jobs_pb2.Job)
WATCH_JOB = Method(_JOBS + "WatchJob", jobs_pb2.WatchJobRequest, jobs_pb2.Job, "unary_stream")
CANCEL_JOB = Method(_JOBS + "CancelJob", jobs_pb2.CancelJobRequest, jobs_pb2.Job)

#: HealthCheckRequest{string service = 1} and HealthCheckResponse{enum status = 1} lie on the wire as these wrappers do, which
#: saves the client a dependency.
HEALTH = Method("/grpc.health.v1.Health/Check", wrappers_pb2.StringValue, wrappers_pb2.Int32Value)
