"""A small net of every module of timm, with random weights, through the whole export: which are the network, and which are not.

All of them with `make test-all`, a few else. A net is made as small as its arguments allow.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from small_nets import as_on_the_hub, export, random_net, spec_of
from topwork_plugins.resnet.feature_taps import TappedTimm

#: The smallest net of each module; of byoanet one whose rows with random weights are the same in float32 as in float64.
NETS = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet26t",
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}
#: Nets too large to begin with, and what makes them small.
LARGE: dict[str, dict[str, Any]] = {
    "deepseek_vit_412m": {"img_size": 84, "depth": 1, "embed_dim": 48, "num_heads": 3},
    "gemma4_vit_167m": {
        "img_size": 96,
        "depth": 1,
        "embed_dim": 48,
        "num_heads": 3,
        "head_dim": 16,
        "intermediate_size": 64,
    },
}
#: What no exporter writes rightly: ONNX Runtime does not take the graph.
REFUSED = ("gemma4_vit",)
QUICK = ("convnext", "mlp_mixer", "xcit")
#: What is given to make a net small, the first that its architecture takes.
SMALLER: tuple[dict[str, Any], ...] = (
    {"depth": 1, "embed_dim": 48, "num_heads": 3},
    {"depth": 1},
    {"depths": (1, 1, 1, 1)},
    {"depths": (1, 1, 1)},
    {"layers": (1, 1, 1, 1)},
    {"layers": (1, 1, 1)},
    {},
)
SIZES = (64, 96, 128, 224, 240, 256, 288, 299, 331, 384)


def small_net(name: str) -> tuple[Any, dict[str, Any], int]:
    """A net of timm with its arguments, and the height and width in pixels of its input."""
    if name in LARGE:
        return random_net(name, **LARGE[name]), LARGE[name], LARGE[name]["img_size"]
    for size in SIZES:
        for smaller in SMALLER:
            for arguments in ({**smaller, "img_size": size}, smaller):
                try:
                    net = random_net(name, **arguments)
                    fixed = net.pretrained_cfg["fixed_input_size"] and "img_size" not in arguments
                    if fixed and size != net.pretrained_cfg["input_size"][-1]:
                        continue
                    TappedTimm(net).taps((size, size))
                except Exception:
                    continue
                return net, arguments, size
    raise AssertionError(f"{name} cannot be made small")


@pytest.mark.parametrize("module", NETS if os.environ.get("TOPWORK_WHOLE") else QUICK)
def test_a_net_of_each_module_is_exported(module: str, tmp_path: Path) -> None:
    net, arguments, size = small_net(NETS[module])
    folder = as_on_the_hub(net, tmp_path / "hub", size=size, arguments=arguments)
    if module in REFUSED:
        with pytest.raises(Exception, match="Invalid model"):
            export(spec_of(folder), folder, tmp_path / "artifact")
        return
    exported = export(spec_of(folder), folder, tmp_path / "artifact")
    assert "pooled" in exported.taps
    assert exported.manifest.numerics.parity >= 0.9999
