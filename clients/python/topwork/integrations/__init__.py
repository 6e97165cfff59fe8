"""Topwork's encoders, sets and heads as parts of other libraries: a module for each, which alone imports that library.

topwork.integrations.sklearn      TopworkTransformer, TopworkClassifier                      topwork[sklearn]
topwork.integrations.langchain    TopworkEmbeddings, TopworkVectorStore                      topwork[langchain]
topwork.integrations.llama_index  TopworkEmbedding, TopworkMultiModalEmbedding               topwork[llama-index]
topwork.integrations.haystack     TopworkTextEmbedder, TopworkDocumentEmbedder, ...          topwork[haystack]
topwork.integrations.datasets     TopworkEmbedder                                            topwork[datasets]
topwork.integrations.ray          TopworkBatchEmbedder                                       topwork[ray]
topwork.integrations.fiftyone     TopworkModel, TopworkSimilarityConfig                      topwork[fiftyone]

All take `server`: "HOST:PORT" or "https://HOST:PORT" (None: $TOPWORK_SERVER, or 127.0.0.1:50051), with the key of
$TOPWORK_API_KEY and the authority of $TOPWORK_CA, or an open `topwork.Client`, for metadata, timeouts and other files of TLS.
Objects for one address share one connection of their process. They hold none themselves: they pickle, and another process opens
its own.
"""
