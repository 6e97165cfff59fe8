"""Makes the Trunk of each tower of a folder. Export process only."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from topwork_server import InvalidInput, TextItem, Trunk, example_texts, prepare_torchvision

from topwork_plugins.bert.tokens import FILE, Tokenization, known_examples
from topwork_plugins.clip.layout import PROCESSORS, Layout, read_layout
from topwork_plugins.clip.settings import Cleaning, Side, TextSettings, cleaned
from topwork_plugins.images.processors import read_processor


def export_images(folder: Path, recipe_file: Path) -> Trunk:
    """Export the image tower, and write how pictures are prepared."""
    layout = read_layout(folder)
    module, unused = _images(layout)
    recipe = _recipe(layout, module)
    recipe.write(recipe_file)
    return Trunk(
        inputs={"pictures": ("batch", 3, *recipe.size)},
        taps=module.taps(),
        definition=layout.definition("vision"),
        preprocessing=recipe.json(),
        module=module.eval(),
        exporter="legacy",
        blocks=module.blocks() if layout.library == "transformers" else (),
        unused=unused,
        remarks=_remarks(layout, module),
    )


def export_texts(folder: Path, out: Path) -> Trunk:
    """Export the text tower, and write its tokenizer and settings."""
    layout = read_layout(folder)
    module, settings, tokenizer, unused = (_transformers_texts if layout.library == "transformers" else _open_clip_texts)(
        layout, out
    )
    settings.write(out)
    length = settings.max_tokens if settings.fixed else "tokens"
    return Trunk(
        inputs=dict.fromkeys(settings.inputs, ("batch", length)),
        taps=module.taps(),
        definition=layout.definition("text"),
        preprocessing={"tokenizer_sha256": tokenizer, **asdict(settings), "inputs": list(settings.inputs)},
        module=module.eval(),
        exporter="legacy",  # as BERT's: its graph is the one that attention fusion recognizes
        examples=_examples(Tokenization(out / FILE, settings.max_tokens), settings.cleaning),
        blocks=module.blocks() if layout.library == "transformers" else (),
        unused=unused,
        remarks=_remarks(layout, module),
    )


def _examples(tokenization: Tokenization, cleaning: Cleaning) -> list[TextItem]:
    return known_examples(
        tokenization, example_texts(), lambda text: tokenization.encode(cleaned(text.text, cleaning), truncate=True)
    )


def _images(layout: Layout) -> tuple[Any, list[str]]:
    model, unused = _model(layout)
    if layout.library == "transformers":
        from topwork_plugins.clip.towers import TransformersImages

        return TransformersImages(model), unused
    from topwork_plugins.clip.open_clip_nets import OpenClipImages

    return OpenClipImages(model), unused


def _remarks(layout: Layout, module: Any) -> tuple[str, ...]:
    if layout.library == "open_clip":
        return ()
    from topwork_plugins.pretrained_models import remarks_on

    return remarks_on(layout.config, module.net)


def _model(layout: Layout) -> tuple[Any, list[str]]:
    prepare_torchvision()
    import torch

    torch.backends.mha.set_fastpath_enabled(False)  # ONNX has no operator for it
    if layout.library == "transformers":
        from topwork_plugins.bert.loading import load_model

        return load_model(layout.folder)
    from topwork_plugins.clip.open_clip_nets import load_model as load_open_clip

    return load_open_clip(layout)


def _recipe(layout: Layout, module: Any) -> Any:
    if layout.library == "open_clip":
        from topwork_plugins.clip.open_clip_nets import recipe_of

        return recipe_of(layout, module.size)
    recipe, size = read_processor(layout.folder, PROCESSORS[layout.kind]), module.net.config.image_size
    if recipe.size != (size, size):
        raise InvalidInput(
            f"{layout.folder.name} prepares pictures of {recipe.size[0]} x {recipe.size[1]} pixels, and its net reads {size} x"
            f" {size}",
            remedy="its preprocessor_config.json and its config.json do not belong together; copy the folder again",
        )
    return recipe


def _transformers_texts(layout: Layout, out: Path) -> tuple[Any, TextSettings, str, list[str]]:
    from topwork_plugins.clip.tokenizer_file import write_tokenizer
    from topwork_plugins.clip.towers import TransformersTexts

    model, unused = _model(layout)
    config = model.text_model.config
    written = write_tokenizer(layout.folder, out, config.vocab_size)
    fixed = layout.kind == "siglip"
    settings = TextSettings(
        inputs=("input_ids", "attention_mask") if written.masks or not fixed else ("input_ids",),
        padding=written.padding,
        max_tokens=min(config.max_position_embeddings, written.max_tokens),
        fixed=fixed,
        side=written.side if fixed else "right",
    )
    return TransformersTexts(model, settings.inputs), settings, written.sha256, unused


def _open_clip_texts(layout: Layout, out: Path) -> tuple[Any, TextSettings, str, list[str]]:
    from topwork_plugins.clip.open_clip_nets import OpenClipTexts
    from topwork_plugins.clip.tokenizer_file import write_clip_tokenizer, write_tokenizer

    model, unused = _model(layout)
    module, said = OpenClipTexts(model), layout.config["text_cfg"]
    cleaning = (said.get("tokenizer_kwargs") or {}).get("clean", "whitespace" if said.get("hf_tokenizer_name") else "lower")
    padding = 0
    side: Side = "right"
    if said.get("hf_tokenizer_name"):
        written = write_tokenizer(layout.folder, out, int(model.vocab_size))
        digest, padding, side = written.sha256, written.padding, written.side
    else:
        digest = write_clip_tokenizer(out, int(model.vocab_size), layout.folder.name)
    settings = TextSettings(("input_ids",), padding, module.length, fixed=True, side=side, cleaning=cleaning)
    return module, settings, digest, unused
