"""The paths of models, whose names may have a slash."""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor


class ModelName(Convertor[str]):
    """The name of a model in a path: that of a head that came with its encoder has a slash, which is no slash before the last
    part of a path that each model has."""

    regex = "[^/]+(?:/(?!(?:infer|ready|config|stats|versions)$)[^/]+)?"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("model", ModelName())
MODEL = "/v2/models/{model:model}"
