"""Topwork's encoders, sets and heads as parts of other libraries: a module for each, which alone imports that library.

topwork.integrations.sklearn      TopworkTransformer, TopworkClassifier                      topwork[sklearn]
topwork.integrations.langchain    TopworkEmbeddings, TopworkVectorStore                      topwork[langchain]
topwork.integrations.llama_index  TopworkEmbedding, TopworkMultiModalEmbedding               topwork[llama-index]
topwork.integrations.haystack     TopworkTextEmbedder, TopworkDocumentEmbedder, ...          topwork[haystack]
topwork.integrations.datasets     TopworkEmbedder                                            topwork[datasets]
topwork.integrations.ray          TopworkBatchEmbedder                                       topwork[ray]
topwork.integrations.fiftyone     TopworkModel, TopworkSimilarityConfig                      topwork[fiftyone]

All take `server`: "HOST:PORT" (None: $TOPWORK_SERVER, or 127.0.0.1:50051), or an open `topwork.Client`, for TLS, metadata and
timeouts. Objects for one address share one connection of their process. They hold none themselves: they pickle, and another
process opens its own.
"""
