"""Multi-layer perceptrons: the contract, and what is particular to them."""

from __future__ import annotations

from topwork_plugins.mlp.trainer import MlpTrainer
from topwork_server.testing_trainer import TrainerContract


class TestMlp(TrainerContract):
    trainer = MlpTrainer
