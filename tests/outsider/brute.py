import numpy as np
from topwork_server import IndexSpec, Metric, VectorIndex, hookimpl


class Brute(VectorIndex):
    """Keeps all rows in one array and compares with every one."""

    exact = True
    name = "Brute"
    trained_on = 0

    def __init__(self, rows, metric):
        self.rows, self.metric = rows, metric

    @classmethod
    def build(cls, vectors, metric, options, target_recall, threads, report):
        rows, done = np.empty((vectors.count, vectors.dim), np.float32), 0
        for batch in vectors.batches():
            rows[done : done + len(batch)] = batch
            done += len(batch)
            report(done / vectors.count, "copying rows")
        return cls(rows, metric)

    def add(self, rows, threads):
        self.rows = np.concatenate([self.rows, rows])

    def save(self, path):
        with path.open("wb") as file:
            np.save(file, self.rows)

    @classmethod
    def load(cls, path, metric):
        return cls(np.load(path, allow_pickle=False), metric)

    def search(self, queries, k, *, effort, threads, mask=None):
        far = self.metric is Metric.L2
        scores = np.stack([-np.linalg.norm(self.rows - query, axis=1) if far else self.rows @ query for query in queries])
        if mask is not None:
            scores[:, np.unpackbits(mask, count=self.count, bitorder="little") == 0] = -np.inf
        scores = np.pad(scores, ((0, 0), (0, k)), constant_values=-np.inf)  # where k is more than there is
        positions = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(scores, positions, axis=1)
        positions[best == -np.inf] = -1
        return -best if far else best, positions

    def efforts(self):
        return (0,)

    def vectors(self, positions):
        return self.rows[positions]

    count = property(lambda self: len(self.rows))
    memory = property(lambda self: self.rows.nbytes)


@hookimpl
def register_indexes():
    return [IndexSpec("brute", Brute, "compares with every row, in numpy")]
