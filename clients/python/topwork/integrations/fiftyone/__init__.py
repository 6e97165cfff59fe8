"""FiftyOne: an encoder of the server as a model, and a feature set as a similarity index of FiftyOne Brain.

Pass `model=TopworkModel(...)` and `backend=TopworkSimilarityConfig`, or register the backend as "topwork" by
$FIFTYONE_BRAIN_SIMILARITY_BACKENDS="*,topwork" and
$FIFTYONE_BRAIN_SIMILARITY_TOPWORK_CONFIG_CLS=topwork.integrations.fiftyone.TopworkSimilarityConfig.
"""

from topwork.integrations.fiftyone.index import TopworkSimilarityIndex
from topwork.integrations.fiftyone.model import TopworkModel
from topwork.integrations.fiftyone.similarity import TopworkSimilarity, TopworkSimilarityConfig

__all__ = ["TopworkModel", "TopworkSimilarity", "TopworkSimilarityConfig", "TopworkSimilarityIndex"]
