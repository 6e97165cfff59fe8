import io

import numpy as np
from PIL import Image
from topwork_server import Encoder, EncoderSpec, Granularity, ImageItem, InvalidInput, Modality, Sample, Tap, Trunk, hookimpl


class Colors(Encoder):
    """Average colors of a 4 x 4 grid: a trunk of one pooling layer."""

    @classmethod
    def export(cls, spec, assets, out):
        from torch import nn

        class Grid(nn.Module):
            def forward(self, pixels):
                return (nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1),)

        return Trunk({"pixels": ("batch", 3, 64, 64)}, (Tap("pooled", 48, Granularity.ITEM),), {}, {"size": 64}, module=Grid())

    def preprocess(self, item, options):
        if not isinstance(item, ImageItem):
            raise InvalidInput("not an encoded picture", remedy="send a JPEG or PNG file")
        image = Image.open(io.BytesIO(item.data)).convert("RGB").resize((64, 64))
        return [Sample({"pixels": np.asarray(image, np.float32).transpose(2, 0, 1) / 255})]


@hookimpl
def register_encoders():
    return [EncoderSpec("colors", Colors, "none:", Modality.IMAGE)]
